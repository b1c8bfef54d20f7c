"""The host waits for the device a fixed number of times, whatever the video's length, and the default never.

Sending numbers from the host to a GPU waits as well: the copy begins when the device has done all it was given before.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aot import AOTConfig, compress

WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::equal",
    "aten::unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}


class CountWaits(TorchDispatchMode):
    """Counts operations that would make the host wait for a GPU, boolean indexing included."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in WAITS:
            self.waits.append(name)
        indexing = name in ("aten::index", "aten::index_put", "aten::index_put_")
        if indexing and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.waits.append(name + " with a mask")
        if name == "aten::repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def count(monkeypatch, frames, config, **arguments):
    """(reads, sends): what makes the host wait for a video whose shape was seen before, as it goes on a GPU."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(frames, 36, 8, generator=generator)
    maps = torch.rand(2, frames, 36, generator=generator)
    extras = {"attention_last": maps[0], "keys": features[..., :4]}
    mode, sent = CountWaits(), []
    compress(features, *maps, config, extras=extras, **arguments)
    with monkeypatch.context() as patch:
        for owner, name in (
            (torch, "tensor"),
            (torch, "as_tensor"),
            (torch, "from_numpy"),
            (torch.Tensor, "new_tensor"),
        ):
            original = getattr(owner, name)

            def send(*args, _name=name, _original=original, **kwargs):
                sent.append(_name)
                return _original(*args, **kwargs)

            patch.setattr(owner, name, send)
        for name in ("tolist", "numpy", "cpu"):  # these read memory without an operation on a CPU tensor
            original = getattr(torch.Tensor, name)

            def read(tensor, *args, _name=name, _original=original, **kwargs):
                mode.waits.append(_name)
                return _original(tensor, *args, **kwargs)

            patch.setattr(torch.Tensor, name, read)
        with mode:
            compress(features, *maps, config, extras=extras, **arguments)
    return mode.waits, sent


CASES = {
    # what each clip keeps follows from the budget alone, so the default waits for nothing
    "default": (AOTConfig(), 0),
    "newlines by row": (AOTConfig(newlines="row"), 1),
    "sinkhorn": (AOTConfig(uniform_marginal=0.5, iterations=20), 0),
    "dynamic clips": (AOTConfig(clips="dynamic"), 1),
    "all kept": (AOTConfig(retention=1.0), 0),
    "random": (AOTConfig(method="random"), 0),
    "uniform": (AOTConfig(method="uniform"), 0),
    "frames": (AOTConfig(method="frames"), 0),
    "visionzip": (AOTConfig(method="visionzip"), 0),
    "prunevid": (AOTConfig(method="prunevid"), 1),
    "fastvid": (AOTConfig(method="fastvid"), 1),
    "holitom": (AOTConfig(method="holitom"), 1),
    "evs": (AOTConfig(method="evs"), 0),
    "dycoke": (AOTConfig(method="dycoke"), 0),
    "vidcom2": (AOTConfig(method="vidcom2"), 0),
    "flashvid": (AOTConfig(method="flashvid"), 1),
    "ott_vid": (AOTConfig(method="ott_vid"), 0),
    "pool": (AOTConfig(method="pool"), 0),
    "vcast": (AOTConfig(method="vcast"), 0),
    "unicomp": (AOTConfig(method="unicomp"), 1),
    "stop": (AOTConfig(method="stop"), 1),
    "paper": (AOTConfig.preset("paper", num_anchors=18, iterations=10), 2),
    "released": (AOTConfig.preset("released", num_anchors=18, iterations=10), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_waits_are_few_and_do_not_grow(monkeypatch, case):
    config, most = CASES[case]
    newline = torch.zeros(8)
    found = [count(monkeypatch, frames, config, newline=newline) for frames in (2, 16, 64)]
    assert len({len(reads) for reads, _ in found}) == 1
    assert len(found[0][0]) <= most, found
    if config.method == "aot" and config.variant == "default":
        assert not any(sent for _, sent in found), found


@pytest.mark.parametrize("position", ["grid", "frame", "one_token", "no_token"])
@pytest.mark.parametrize("newlines", ["frame", "all", "none"])
def test_the_default_never_waits_whatever_the_newlines(monkeypatch, newlines, position):
    config = AOTConfig(newlines=newlines)
    assert count(monkeypatch, 16, config, newline=torch.zeros(8), newline_position=position) == ([], [])


def test_the_counter_sees_each_kind_of_wait(monkeypatch):
    tensor = torch.arange(4.0)
    with CountWaits() as mode:
        tensor.sum().item()
        bool(tensor.sum() > 0)
        int(tensor.max())
        tensor[tensor > 1]
        tensor.nonzero()
        tensor.masked_select(tensor > 1)
        torch.arange(2).repeat_interleave(torch.tensor([1, 2]))
    assert len(mode.waits) >= 7
