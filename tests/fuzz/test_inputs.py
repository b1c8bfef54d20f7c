"""Settings, checkpoints and prompts that are damaged or hostile: a clear error, and no code of theirs runs."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aot import AOTConfig, AOTError
from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import model_config, read_settings
from llava.model.loading import CheckpointError

from ..serve.conftest import write_checkpoint

QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FIELDS = sorted(AOTConfig().to_dict())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def said(error: Exception) -> str:
    """The text of an error, which must be one line."""
    text = str(error)
    assert text and "\n" not in text
    return text


@QUICK
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), JSON, max_size=4))
def test_settings_of_any_kind(given_settings):
    try:
        config = AOTConfig.from_dict(given_settings)
    except AOTError as error:
        said(error)
        return
    assert AOTConfig.from_dict(config.to_dict()) == config
    if config.retention is not None and config.method == "aot":
        assert 1 <= config.budget(7, 36) <= 7 * 36


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return Path(write_checkpoint(tmp_path_factory.mktemp("fuzz") / "tiny"))


@pytest.fixture
def checkpoint(folder, tmp_path) -> Path:
    """A copy that may be damaged."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def refusal(path: Path) -> str:
    with pytest.raises((CheckpointError, AOTError)) as caught:
        load_pretrained_model(path)
    return said(caught.value)


@settings(QUICK, phases=[Phase.generate])  # a failing value is small as it is
@given(st.data())
def test_config_json_with_values_of_any_kind(folder, data):
    fields = json.loads((folder / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    try:
        model_config(folder, fields)
    except ValueError as error:
        said(error)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\x00\x01", '{"model_type": "bert"}', "{}"])
def test_config_json_that_is_none(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        model_config(checkpoint, read_settings(checkpoint))
    said(caught.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"null", b"[1]", b"\xff", b"[" * 100_000])
def test_settings_that_are_none(checkpoint, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in refusal(checkpoint)


def test_a_pipe_in_place_of_the_settings_is_not_waited_for(checkpoint):
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    assert "is no file" in refusal(checkpoint)


@settings(QUICK, max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(["cut", "flip", "header", "empty"]), st.integers(1, 255))
def test_damaged_weights(folder, tmp_path_factory, place, kind, value):
    """A whole file with other values in it still loads; one that does not hold what it says is refused."""
    copy = tmp_path_factory.mktemp("damaged")
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if kind == "cut":
        del content[len(content) - 1 - place :]
    elif kind == "flip":
        content[8 + place % 4000] ^= value  # inside the description of the tensors
    elif kind == "header":
        content[place % 8] ^= value
    else:
        content.clear()
    weights.write_bytes(content)
    try:
        load_pretrained_model(copy)
    except ValueError as error:
        said(error)
    else:
        assert kind == "flip"


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "adapter_model.bin"])
def test_no_pickle_is_loaded(checkpoint, tmp_path, name):
    mark = tmp_path / "mark"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps({"lm_head.weight": Trap(mark)}))
    said = "LoRA adapter" if name.startswith("adapter") else "safetensors"
    assert said in refusal(checkpoint)
    torch.save({"lm_head.weight": Trap(mark)}, checkpoint / name)
    assert said in refusal(checkpoint)
    (checkpoint / "adapter_config.json").write_text("{}")
    if name.startswith("adapter"):  # an adapter that says what its base is
        with pytest.raises(ValueError, match="pickled weights"):
            load_pretrained_model(checkpoint, model_base=checkpoint)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works


def test_no_code_of_a_checkpoint_runs(checkpoint, tmp_path):
    mark = tmp_path / "mark"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass C: pass\n"
    (checkpoint / "evil.py").write_text(code)
    for file in ("config.json", "tokenizer_config.json"):
        fields = json.loads((checkpoint / file).read_text())
        fields["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C"] * 2}
        (checkpoint / file).write_text(json.dumps(fields))
    load_pretrained_model(checkpoint)
    assert not mark.exists()


@pytest.mark.parametrize("known", [True, False])
def test_no_code_of_a_tokenizer_runs_and_nobody_is_asked(checkpoint, tmp_path, known):
    """A "y" waits on stdin: a class of transformers is taken where one is named, else one sentence says why not."""
    mark = tmp_path / "mark"
    (checkpoint / "evil.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass C: pass\n")
    file = checkpoint / "tokenizer_config.json"
    fields = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}
    file.write_text(json.dumps(fields if known else fields | {"tokenizer_class": "C"}))
    code = (
        "import sys; from llava.model.builder import load_pretrained_model\n"
        "try: load_pretrained_model(sys.argv[1])\n"
        "except ValueError as error: print('REFUSED', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], input="y\ny\n", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and not mark.exists() and "[y/N]" not in done.stdout + done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == (0 if known else 1)
    assert all("auto_map" in line and "never run" in line for line in refused)


@QUICK
@given(st.lists(st.sampled_from(["<image>", "<image", "image>", "<", "a", " ", "\n", "é", "<|im_end|>"]), max_size=12))
def test_prompts_with_tags_anywhere(session, parts):
    """Ids of a prompt hold one mark for each whole tag; a question's own tags are plain text."""
    text = "".join(parts)
    ids = tokenizer_image_token(text, session.tokenizer, IMAGE_TOKEN_INDEX)
    assert ids.count(IMAGE_TOKEN_INDEX) == text.count("<image>")
    session.turns[:] = [(text, text)]
    try:
        assert (session._prompt(text or "?") == IMAGE_TOKEN_INDEX).sum() == 1
    finally:
        session.turns.clear()


def test_a_question_with_tags_is_answered(session):
    assert session.ask("Is <image> one, <image> two?").before.visual == 8 * 36


@pytest.fixture(scope="module")
def session(folder, tmp_path_factory):
    from benchmarks.odd_files import encode
    from llava.chat.session import ChatSession

    path = tmp_path_factory.mktemp("video") / "a.mp4"
    encode(path)
    tokenizer, model, processor, context = load_pretrained_model(folder)
    chat = ChatSession(model, tokenizer, processor, context, max_new_tokens=2)
    chat.set_video(str(path))
    return chat
