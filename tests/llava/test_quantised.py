"""Few bits: the language model alone, by a library that is there, or one sentence."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from aot_cli.main import main, make_parser
from llava.chat.options import load_session
from llava.model import builder
from llava.model.builder import load_pretrained_model

EMBEDDED = Path(__file__).parents[2] / "checkpoints" / "aot-tiny"  # 4-bit blocks are wider than a tiny random model
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
KINDS = [
    pytest.param({"load_8bit": True}, "Linear8bitLt", marks=needs_bitsandbytes),
    pytest.param({"load_4bit": True}, "Linear4bit", marks=needs_bitsandbytes),
    pytest.param({"load_int8": True}, "Int8Tensor", marks=needs_torchao),
]


def load(folder, **arguments):
    return load_pretrained_model(folder, None, "any", device_map="cpu", torch_dtype="float32", **arguments)[1]


def kind_of(layer):
    plain = type(layer.weight) in (torch.Tensor, torch.nn.Parameter)
    return type(layer).__name__ if plain or "bit" in type(layer).__name__ else type(layer.weight).__name__


@pytest.mark.parametrize(("arguments", "kind"), KINDS)
@torch.no_grad()
def test_the_language_model_alone_is_in_few_bits(video, arguments, kind):
    plain, few = load(EMBEDDED), load(EMBEDDED, **arguments)
    assert kind_of(few.model.layers[0].mlp.up_proj) == kind
    assert torch.equal(few.encode_images(video), plain.encode_images(video))  # what the reduction reads
    ids = torch.tensor([[5, -200, 6, 7]])
    given = {"images": [video], "modalities": ["video"]}
    ours, whole = few(ids, **given).logits, plain(ids, **given).logits
    assert not torch.equal(ours, whole)
    assert float((ours - whole).norm() / whole.norm()) < 0.3


@needs_bitsandbytes
@torch.no_grad()
def test_a_checkpoint_that_is_quantised_already(video, tmp_path):
    tokenizer, first, _, _ = load_pretrained_model(EMBEDDED, device_map="cpu", torch_dtype="float32", load_4bit=True)
    first.save_pretrained(tmp_path / "few")
    tokenizer.save_pretrained(tmp_path / "few")
    again = load(tmp_path / "few")
    ids = torch.tensor([[5, -200, 6, 7]])
    given = {"images": [video], "modalities": ["video"]}
    torch.testing.assert_close(again(ids, **given).logits, first(ids, **given).logits)


@pytest.mark.parametrize(("name", "library"), [("load_4bit", "bitsandbytes"), ("load_int8", "torchao")])
def test_a_library_that_is_not_there_is_one_sentence(checkpoint, monkeypatch, name, library):
    monkeypatch.setattr(builder, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"needs {library}; run pip install {library}"):
        load(checkpoint, **{name: True})


def test_the_option_says_so_too(checkpoint, monkeypatch):
    monkeypatch.setattr(builder, "find_spec", lambda _: None)
    options = make_parser().parse_args(["chat", "--model-path", str(checkpoint), "--quantization", "int8"])
    with pytest.raises(ValueError, match="needs torchao; run pip install torchao"):
        load_session(options)


@needs_torchao
def test_what_the_option_chose_stands_with_the_answer(tmp_path, capsys):
    clip = str(tmp_path / "clip.mp4")
    assert main(["clip", clip]) == 0
    capsys.readouterr()
    asked = ["chat", clip, "--quantization", "int8", "--question", "What moves?", "--json"]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["model"]["quantization"]["quant_method"] == "torchao"


def test_one_kind_at_a_time(checkpoint):
    with pytest.raises(ValueError, match="exclude each other"):
        load(checkpoint, load_4bit=True, load_8bit=True)
