"""Blocks of patches that stand still pass the towers of the Qwen-VL models once, and changed ones see all of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import aot
from aot import AOTError
from aot.integrations.duplicate_frames import TowerWork, encoding_once
from aot.integrations.qwen_tower import TowerReader, tower_flops, window_order
from aot.integrations.vision_outputs import capturing
from aot.patch_reuse import plan_reuse

from . import qwen
from .families import CLOSE, NEW

NAMES = ("Qwen2_5_VL", "Qwen3VL")
OTHERS = ("Qwen2VL", *(("Qwen3_5",) if NEW else ()))  # whose towers have no windows and no DeepStack
NEEDS = ("shallow", "deep", "attention_last", "keys")
BOUND, UNIT = 0.02, qwen.MERGE**2
GRID = (10, 12, 10)  # temporal pairs, height and width in patches: 30 blocks, in windows of 4, 2 and of fewer


def make(family: str):
    model = qwen.make(family)
    aot.apply(model, 0.5, tower_reuse=BOUND)
    return model


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return make(request.param)


def clip(seed: int = 1, grid: tuple[int, int, int] = GRID) -> torch.Tensor:
    """(n, C) packed noise that stands still but for a little, and for a part that grows by two blocks a pair."""
    t, h, w = grid
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(1, h * w // UNIT, UNIT * 3 * 2 * qwen.PATCH**2, generator=generator).repeat(t, 1, 1)
    for pair in range(t):
        blocks[pair, : 2 * pair] = torch.randn(blocks[pair, : 2 * pair].shape, generator=generator)
    blocks += 1e-3 * torch.randn(blocks.shape, generator=generator)
    return blocks.reshape(t * h * w, -1)


@dataclass
class Encoded:
    """features: merged tokens, and the levels of DeepStack. outputs: of the first video, that methods read."""

    features: list[torch.Tensor]
    outputs: dict[str, torch.Tensor]
    work: TowerWork


def encode(model, pixels: torch.Tensor, *grids: tuple[int, int, int], reuse: float | None = BOUND) -> Encoded:
    tower, thw = model.model.visual, torch.tensor(grids or [GRID])
    reader = TowerReader(tower, NEEDS)
    with torch.no_grad(), encoding_once(reuse) as work, capturing(reader.names) as captured:
        output: Any = tower(pixels, grid_thw=thw)
        outputs = reader.read(captured, thw)[0]
    if hasattr(output, "pooler_output"):
        assert len(output.last_hidden_state) == len(pixels)
        features = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
    else:  # transformers 4
        features = [output] if isinstance(output, torch.Tensor) else [output[0], *output[1]]
    return Encoded(features, outputs, work)


def reference(model, pixels: torch.Tensor) -> Encoded:
    """With every block computed and, before each layer and each merger, those put back that did not change."""
    tower = model.model.visual
    std = torch.tensor([0.5] * 3 if hasattr(tower, "pos_embed") else [0.26862954, 0.26130258, 0.27577711])
    normal = pixels.float().unflatten(1, (3, -1)) * std[:, None]
    plan = plan_reuse(normal.reshape(GRID[0], -1, UNIT * pixels.shape[1]), BOUND, (GRID[1] // 2, GRID[2] // 2))
    assert plan.keys == [0, 8, 9] and [part.patches.shape[1] for part in plan.changed] == [6, 10, 12, 14, 16, 18, 20]
    order = window_order(tower, torch.tensor([GRID]))
    places = torch.arange(len(pixels) // UNIT)
    where = torch.empty_like(places)
    where[places[order]] = places
    source = where[plan.sources(len(places) // GRID[0], torch.device("cpu")).flatten()[order]]
    rows = (source[:, None] * UNIT + torch.arange(UNIT)).flatten()
    mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", ())]
    hooks = [
        part.register_forward_pre_hook(lambda _, args, kwargs: ((args[0][rows], *args[1:]), kwargs), with_kwargs=True)
        for part in (*tower.blocks, *mergers)
    ]
    found = encode(model, pixels, reuse=None)
    for hook in hooks:
        hook.remove()
    return found


def assert_same(found: Encoded, expected: Encoded) -> None:
    torch.testing.assert_close(found.features, expected.features, **CLOSE)
    torch.testing.assert_close(found.outputs, expected.outputs, **CLOSE)


@contextmanager
def scaled(tower, factor: float) -> Iterator[None]:
    """With weights of the layers that are so many times as large."""
    weights = [weight.data for weight in tower.blocks.parameters() if weight.ndim > 1]
    for weight in weights:
        weight.mul_(factor)
    try:
        yield
    finally:
        for weight in weights:
            weight.div_(factor)


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def test_changed_blocks_see_all_and_the_others_are_the_key_frames(model):
    pixels = clip()
    found, plain = encode(model, pixels), encode(model, pixels, reuse=None)
    assert_same(found, reference(model, pixels))
    for one, other in zip(found.features, plain.features, strict=True):
        one, other = one.unflatten(0, (GRID[0], -1)), other.unflatten(0, (GRID[0], -1))
        torch.testing.assert_close(one[[0, 8, 9]], other[[0, 8, 9]], **CLOSE)  # the key frames
        assert int((one[1] == one[0]).all(1).sum()) == 30 - 6 and not (other[1] == other[0]).all(1).any()
    assert 0.6 < found.work.share < 0.66  # 0.62 of the blocks


@pytest.mark.parametrize("family", OTHERS)
def test_towers_without_windows_and_levels(family):
    model = make(family)
    assert_same(encode(model, clip()), reference(model, clip()))


def test_features_are_near_those_of_the_whole_tower(model):
    """Relative errors here are 0.005 to 0.010 of features, 0.0003 of received attention and 0.013 to 0.019 of keys."""
    with scaled(model.model.visual, 0.25):
        found, plain = encode(model, clip()), encode(model, clip(), reuse=None)
    for one, other in zip(found.features, plain.features, strict=True):
        assert 1e-3 < relative(one, other) < 0.012
    errors = {name: relative(found.outputs[name], value) for name, value in plain.outputs.items()}
    assert errors.pop("keys") < 0.022 and max(errors.values()) < 5e-4


def test_still_pairs_have_the_features_of_the_first_to_the_bit(model):
    pixels = clip()[: 12 * 10].repeat(10, 1) + 1e-3 * torch.randn(10 * 12 * 10, 96, generator=torch.manual_seed(0))
    found, first = encode(model, pixels), encode(model, pixels[: 12 * 10], (1, 12, 10), reuse=None)
    for one, other in zip(found.features, first.features, strict=True):
        one = one.unflatten(0, (10, -1))
        torch.testing.assert_close(one[0], other, **CLOSE)
        assert all(torch.equal(one[pair], one[0]) for pair in range(8)) and torch.equal(one[9], one[8])
        assert not torch.equal(one[8], one[0])  # a key frame
    for value in found.outputs.values():
        assert torch.equal(value[7], value[0])


def test_nothing_is_reused_where_all_changes(model):
    pixels = torch.randn(4 * 12 * 10, 96, generator=torch.manual_seed(3))
    found, plain = encode(model, pixels, (4, 12, 10)), encode(model, pixels, (4, 12, 10), reuse=None)
    assert found.work.share == 1
    assert all(map(torch.equal, found.features, plain.features))


def test_several_videos_are_as_by_themselves_and_equal_pairs_are_left_out(model):
    other = clip(2, (4, 8, 6))
    other[-48:] = other[:48]
    found = encode(model, torch.cat([clip(), other]), GRID, (4, 8, 6))
    alone = [encode(model, clip()), encode(model, other, (4, 8, 6))]
    for level, one, two in zip(found.features, *(each.features for each in alone), strict=True):
        torch.testing.assert_close(level, torch.cat([one, two]), **CLOSE)
        assert torch.equal(level[-12:], level[-48:-36])
    assert found.work.spent == sum(each.work.spent for each in alone)
    assert found.work.whole == sum(each.work.whole for each in alone)
    assert alone[1].work.share < 0.75


def test_flops_are_those_that_torch_counts(model):
    tower, thw = model.model.visual, torch.tensor([GRID])
    for reuse in (None, BOUND):
        counting, math = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), math, counting as counted, encoding_once(reuse) as work, capturing([]):
            tower(clip(), grid_thw=thw)
        assert counted.get_total_flops() == (work.spent if reuse else tower_flops(tower, [GRID]))
    assert work.whole == tower_flops(tower, [GRID])


def test_in_bfloat16(model):
    copied, pixels = copy.deepcopy(model).bfloat16(), clip().bfloat16()
    found, expected, exact = encode(copied, pixels), reference(copied, pixels), encode(model, pixels.float())
    for one, other, third in zip(found.features, expected.features, exact.features, strict=True):
        assert one.dtype == torch.bfloat16 and relative(one.float(), other.float()) < 0.01
        assert relative(one.float(), third) < 0.03  # rounding


@torch.no_grad()
def test_an_image_beside_the_video_is_encoded_whole(model):
    family, grid = type(model).__name__.removesuffix("ForConditionalGeneration"), (4, 12, 10)
    inputs = qwen.batch(family, (5, qwen.image(), 6, qwen.video(*grid), 7, 8))
    seen: list[int] = []
    hook = model.model.visual.blocks[2].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with aot.apply(model, 0.5, tower_reuse=BOUND) as applied:
        model(**inputs)  # a video all of which changes
        assert applied.tower_share == 1
        answer = model.generate(**{**inputs, "pixel_values_videos": clip(2, grid)}, max_new_tokens=1)
    hook.remove()
    assert applied.tower_share < 0.75 and answer.shape[1] == inputs["input_ids"].shape[1] + 1
    assert seen[:2] == [24, 4 * 120] and seen[2:4] == [24, 4 * (30 + 6 + 10 + 12)]


def test_the_tower_is_left_as_it_was(model):
    copied = copy.deepcopy(model)
    attention = copied.model.visual.blocks[1].attn
    expected = encode(model, clip()).features
    assert all(map(torch.equal, encode(copied, clip()).features, expected))
    aot.remove(copied)
    assert not {"forward", "_aot_forward"} & set(vars(attention))
    attention.forward = own = lambda *args, **kwargs: type(attention).forward(attention, *args, **kwargs)
    with aot.apply(copied, 0.5, tower_reuse=BOUND):  # one of a library that spreads models over devices
        assert all(map(torch.equal, encode(copied, clip()).features, expected))
    assert attention.forward is own


def test_layers_that_run_again_for_their_gradients_are_refused(model):
    copied = copy.deepcopy(model).train()
    copied.gradient_checkpointing_enable()
    with pytest.raises(AOTError, match="set tower_reuse=0"):
        encode(copied, clip())
