"""aot.apply on the Qwen-VL models: what their towers' attention gives, positions, and layers of linear attention."""

import copy
import sys

import pytest
import torch

import aot
from aot.compress import compress
from aot.integrations import hf_base

from .families import CACHE, CLOSE, NEW, QWEN, VIDEO
from .qwen import batch, make, rope, video


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=QWEN)
def family(request):
    return request.param


def raster(values: torch.Tensor, grid: tuple[int, int, int], family: str) -> torch.Tensor:
    """(T, N, ...) of a video's patches (n, ...) summed by merged tokens; Qwen2.5-VL has windows of 2x2 tokens first."""
    frames, height, width = grid[0], grid[1] // 2, grid[2] // 2
    places = [(r, c) for r in range(height) for c in range(width)]
    if family == "Qwen2_5_VL":
        places.sort(key=lambda place: (place[0] // 2, place[1] // 2, *place))
    order = torch.tensor([r * width + c for r, c in places]).argsort()
    return values.unflatten(0, (frames, height * width, 4)).sum(2)[:, order]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_received_attention_is_that_of_an_eager_map(family, attention, monkeypatch):
    """The weights that eager mode itself makes in the nearest layers that see whole frames."""
    grids = [(3, 8, 12), (2, 6, 4)]
    model, inputs = make(family, attention), batch(family, (5, video(*grids[0]), 6, video(*grids[1]), 7))
    tower = make(family, "eager").model.visual
    module = sys.modules[type(tower).__module__]
    original, weights, keys = module.eager_attention_forward, {}, []

    def eager(attention, *args, **kwargs):
        output, found = original(attention, *args, **kwargs)
        weights.setdefault(id(attention), []).append(found[0].mean(0).sum(0))  # over heads, over queries
        return output, found

    tower.blocks[5].attn.qkv.register_forward_hook(lambda module, args, output: keys.append(output))
    with monkeypatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", eager)
        tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
    read = []
    monkeypatch.setattr(
        hf_base, "compress", lambda *args, **kwargs: read.append((args, kwargs)) or compress(*args, **kwargs)
    )
    aot.apply(model, 0.2, attention_power=0.5)
    model(**inputs)
    aot.apply(model, 0.2, method="visionzip")
    model(**inputs)
    shallow, deep = (2, 5) if family == "Qwen2_5_VL" else (1, 4)
    sizes = [t * h * w for t, h, w in grids]
    found_keys = keys[0].unflatten(-1, (3, 2, -1))[:, 1].mean(1).split(sizes)
    for number, grid in enumerate(grids):

        def of(layer, number=number, grid=grid):
            return raster(torch.cat(weights[id(tower.blocks[layer].attn)]).split(sizes)[number], grid, family)

        found, extras = (read[n][1]["extras"] for n in (number, 2 + number))
        for one, expected in (
            (found["shallow"], of(shallow)),
            (found["deep"], of(deep)),
            (extras["attention_last"], of(5)),
        ):
            torch.testing.assert_close(one, expected, **CLOSE)
        torch.testing.assert_close(extras["keys"], raster(found_keys[number], grid, family) / 4, **CLOSE)


@pytest.mark.skipif(not NEW, reason="the class is of transformers 5")
@pytest.mark.parametrize("family", ["Qwen3_5", "Qwen3_5Moe"])
def test_padding_behind_an_earlier_turn_is_refused_by_linear_attention(family):
    model, clip = make(family), video(2, 6, 4)
    first, later = batch(family, (5, clip), (7, clip)), batch(family, (9, clip), (10, video(3, 6, 4), 11))
    later["attention_mask"] = torch.cat([first["attention_mask"], later["attention_mask"]], dim=1)
    aot.apply(model, 0.2)
    cache = model(**first, use_cache=True)[CACHE]
    with pytest.raises(aot.AOTError, match="one prompt at a time"):
        model(**later, **{CACHE: cache})
    text = {
        "input_ids": torch.tensor([[9, 8], [0, 8]]),
        "attention_mask": torch.ones(2, first["input_ids"].shape[1] + 2),
    }
    model(**text, **{CACHE: copy.deepcopy(cache)})
    text["attention_mask"][1, -2] = 0
    with pytest.raises(aot.AOTError, match="one prompt at a time"):
        model(**text, **{CACHE: cache})


def test_positions_are_those_of_the_release():
    """Qwen2.5-VL's own: transformers 5 lets text begin inside the video's time; the host keeps what the model does."""
    model, inputs = make("Qwen2_5_VL"), batch("Qwen2_5_VL", (5, 6, video(8, 8, 6), 7, 8))
    places = rope(model, inputs)[:, 0]
    (seen,) = (inputs["input_ids"][0] == VIDEO).nonzero(as_tuple=True)[:1]
    text = places[0, int(seen[-1]) + 1 :]
    inside = bool((text <= places[0, seen].max()).any())
    assert inside == NEW
    used = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: used.append(kwargs["position_ids"]), with_kwargs=True
    )
    with aot.apply(model, 0.2):
        model(**inputs)
    assert torch.equal(used[-1][-3:, 0, -len(text) :], places[:, -len(text) :])
