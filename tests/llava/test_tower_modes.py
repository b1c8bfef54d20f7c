"""The tower's layers compiled, and as CUDA graphs: the same features, or one sentence.

On a machine with a GPU: python -m pytest tests/llava/test_tower_modes.py
"""

import shutil

import pytest
import torch
from packaging.version import Version

from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.modes import Replay

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def agree(tower, video):
    """With and without side outputs, at several numbers of frames, in both modes of inference."""
    wanted = ({}, {"received": (1, 3), "keys": (4,)}, {})
    plain = [[tower.encode(video[:frames], **w) for w in wanted] for frames in (6, 3)]
    yield
    for _ in range(2):
        seen = [[tower.encode(video[:frames], **w) for w in wanted] for frames in (6, 3)]
        for row, expected in zip(seen, plain, strict=True):
            for one, other in zip(row, expected, strict=True):
                torch.testing.assert_close(one.features, other.features, rtol=1e-3, atol=1e-4)
                assert one.received.keys() == other.received.keys() and one.keys.keys() == other.keys.keys()
                for layer, values in other.received.items():
                    torch.testing.assert_close(one.received[layer], values, rtol=1e-3, atol=1e-4)
                for layer, values in other.keys.items():
                    torch.testing.assert_close(one.keys[layer], values, rtol=1e-3, atol=1e-4)
    yield


@needs_compiler
@pytest.mark.slow
def test_compiled_layers_give_the_same_features(model, video):
    torch._dynamo.reset()
    tower = model.get_vision_tower()
    with torch.inference_mode():
        steps = agree(tower, video)
        next(steps)
        torch._dynamo.utils.counters.clear()
        tower.set_mode("compile")
        next(steps)
    assert tower.mode == "compile" and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    if Version(torch.__version__) >= Version("2.6"):  # earlier ones do not follow how transformers finds its attention
        assert not torch._dynamo.utils.counters["graph_break"]
    tower.set_mode("eager")
    assert tower.mode == "eager"


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["compile", "cuda_graphs"])
def test_on_a_gpu(make_model, video, mode):
    tower, video = make_model().cuda().get_vision_tower(), video.cuda()
    with torch.inference_mode():
        steps = agree(tower, video)
        next(steps)
        tower.set_mode(mode)
        next(steps)
    with torch.no_grad():  # what was recorded in one mode is replayed in the other
        assert tower.encode(video).features.isfinite().all()


@needs_gpu
@pytest.mark.gpu
def test_results_outlive_the_next_replay_and_old_graphs_go():
    replay = Replay(lambda x, factor: [x * factor], most=2)
    given = [torch.full((size,), 2.0, device="cuda") for size in (3, 3, 4, 5)]
    results = [replay(x + i, 3.0)[0] for i, x in enumerate(given)]
    assert [result.tolist() for result in results] == [[6.0] * 3, [9.0] * 3, [12.0] * 4, [15.0] * 5]
    assert len(replay._graphs) == 2


def test_what_cannot_be_had_is_one_sentence(checkpoint, monkeypatch):
    for mode, words in (("fast", "eager, compile, cuda_graphs"), ("cuda_graphs", "needs a CUDA device")):
        with pytest.raises(ValueError, match=words):
            load_pretrained_model(checkpoint, device_map="cpu", tower_mode=mode)
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ValueError, match="cannot be had here .*no-such-compiler.* use 'eager'") as caught:
        load_pretrained_model(checkpoint, device_map="cpu", tower_mode="compile")
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()
