"""The layout of transformers: what was converted gives the same tokens there."""

import json
import os
import resource
import signal
import time

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlavaOnevisionForConditionalGeneration

import llava.model.convert as module
from aot.vllm import ARCHITECTURE
from aot_cli.main import main
from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.convert import convert, key_in_transformers, with_rows
from llava.model.loading import CheckpointError

STOCK = {
    "mm_newline_position": "one_token",
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(2x3)",
}


@pytest.fixture
def write(make_model, tokenizer, tmp_path):
    """Factory: a checkpoint of these settings in LLaVA-NeXT's layout; (model, folder)."""

    def make(name="source", **settings):
        model = make_model(**{**STOCK, **settings})
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return make


@pytest.mark.parametrize("tied", [True, False])
def test_video_answers_are_those_of_the_original(write, tmp_path, video, tied):
    ours, source = write(tie_word_embeddings=tied)
    target = convert(source, tmp_path / "target")
    theirs, info = LlavaOnevisionForConditionalGeneration.from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all("post_layernorm" in key for key in info["unexpected_keys"])
    mark, text = theirs.config.video_token_id, [5, 6, 7]
    places = [*text, *[mark] * (len(video) * 36 + 1), *text]
    with torch.no_grad():
        inputs = torch.tensor([[*text, IMAGE_TOKEN_INDEX, *text]])
        wanted = ours(inputs, images=[video], modalities=["video"]).logits
        found = theirs.eval()(input_ids=torch.tensor([places]), pixel_values_videos=video[None]).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_marks_take_rows_that_no_greedy_answer_can_hold(write, tmp_path, tokenizer, video):
    ours, source = write(vocab_size=len(tokenizer))
    target = convert(source, tmp_path / "target")
    config = AutoConfig.from_pretrained(target)
    assert (config.image_token_id, config.video_token_id) == (len(tokenizer), len(tokenizer) + 1)
    assert config.text_config.vocab_size == len(tokenizer) + 2
    table = with_rows(ours.model.embed_tokens.weight, len(tokenizer) + 2)
    assert len(table) == len(tokenizer) + 2
    logits = torch.randn(64, table.shape[1]) @ table.T
    assert int(logits.argmax(dim=-1).max()) < len(tokenizer)


def test_tokenizer_and_processor_fit_the_tower(write, tmp_path):
    _, source = write()
    (source / "generation_config.json").write_text('{"temperature": 0.3}')
    target = convert(source, tmp_path / "target")
    assert (target / "generation_config.json").read_text() == '{"temperature": 0.3}'
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer("a<video>\nb").input_ids == [*tokenizer("a").input_ids, 260, *tokenizer("\nb").input_ids]
    pixels = json.loads((target / "preprocessor_config.json").read_text())
    assert pixels["size"] == {"height": 96, "width": 96}
    # as LLaVA-NeXT makes its pixels: bicubic, to [-1, 1]
    steps = {name: True for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")}
    steps |= {"resample": 3, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for made in (pixels, json.loads((target / "video_preprocessor_config.json").read_text())):
        assert {name: made[name] for name in steps} == steps
    assert pixels["image_grid_pinpoints"] == [[h, w] for w in (96, 192) for h in (96, 192, 288)]
    assert json.loads((target / "processor_config.json").read_text())["num_image_tokens"] == 144


@pytest.mark.parametrize(
    ("settings", "architecture"),
    [
        ({}, "LlavaOnevisionForConditionalGeneration"),
        ({"mm_newline_position": "grid"}, ARCHITECTURE),
        ({"mm_newline_position": "frame"}, ARCHITECTURE),
        ({"mm_spatial_pool_mode": "average"}, ARCHITECTURE),
    ],
)
def test_what_the_stock_class_would_read_wrongly_names_another(write, tmp_path, settings, architecture):
    _, source = write(**settings)
    written = json.loads((convert(source, tmp_path / "target") / "config.json").read_text())
    assert written["architectures"] == [architecture]
    for name, value in settings.items():
        assert written[name] == value


def test_several_files_keep_their_index(write, tmp_path, make_model):
    model, source = write()
    model.save_pretrained(source, max_shard_size="60KB")
    (source / "model.safetensors").unlink()
    target = convert(source, tmp_path / "target")
    index = json.loads((target / "model.safetensors.index.json").read_text())
    stored = {key for key in model.state_dict() if key != "lm_head.weight"}
    assert set(index["weight_map"]) == {key_in_transformers(key) for key in stored}
    assert len(set(index["weight_map"].values())) > 2
    assert all((target / name).is_file() for name in index["weight_map"].values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio 'pad'"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type 'flat'"),
        ({"mm_spatial_pool_stride": 4}, "mm_spatial_pool_stride 4"),
    ],
)
def test_what_has_no_place_is_refused(write, tmp_path, settings, said):
    _, source = write(**settings)
    with pytest.raises(CheckpointError, match=said):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_weights_that_are_no_numbers_are_refused(write, tmp_path):
    model, source = write()
    with torch.no_grad():
        model.model.image_newline[0] = torch.nan
    model.save_pretrained(source)
    with pytest.raises(CheckpointError, match="image_newline"):
        convert(source, tmp_path / "target")


def test_the_command_says_one_sentence(write, tmp_path, capsys):
    _, source = write()
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "target")]) == 0
    assert main(["convert", str(source), str(tmp_path / "target")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["convert", str(tmp_path / "target"), str(tmp_path / "again")]) == 1
    assert "layout of transformers" in capsys.readouterr().err


def test_a_checkpoint_without_its_grids_is_one_sentence(write, tmp_path):
    _, source = write()
    fields = json.loads((source / "config.json").read_text())
    del fields["image_grid_pinpoints"]
    (source / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="no image_grid_pinpoints"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_no_room_is_one_sentence_and_leaves_nothing(write, tmp_path, capsys, file):
    _, source = write()
    room, hard = (source / file).stat().st_size // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        code = main(["convert", str(source), str(tmp_path / "target")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said = capsys.readouterr().err
    assert code == 1 and "make room" in said and said.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_stopped_leaves_nothing(write, tmp_path, capsys, monkeypatch, number, code):
    _, source = write()
    before = sorted(tmp_path.iterdir())

    def stop(*_):
        assert (tmp_path / "target.part" / "tokenizer.json").exists()
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(module, "_write_weights", stop)
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "target")]) == code
    assert capsys.readouterr().err.startswith("aot convert: ") and sorted(tmp_path.iterdir()) == before


def test_two_at_once_do_not_mix(write, tmp_path, monkeypatch):
    """The second is told; what a killed one left is neither in the way nor in the result."""
    _, source = write()
    target, part, write_weights = tmp_path / "target", tmp_path / "target.part", module._write_weights
    (part / "folder").mkdir(parents=True)
    (part / "left.json").touch()

    def meanwhile(*arguments):
        with pytest.raises(FileExistsError, match="Another process writes .*target; wait for it"):
            convert(source, target)
        write_weights(*arguments)

    monkeypatch.setattr(module, "_write_weights", meanwhile)
    convert(source, target)
    names = {file.name for file in target.iterdir()}
    assert "model.safetensors" in names and "left.json" not in names and "folder" not in names and not part.exists()


def test_one_that_was_finished_meanwhile_is_not_written_over(write, tmp_path, monkeypatch):
    _, source = write()
    target = tmp_path / "target"

    def finished(folder):
        target.mkdir()
        return stored_tensors(folder)

    stored_tensors = module.stored_tensors
    monkeypatch.setattr(module, "stored_tensors", finished)
    with pytest.raises(FileExistsError, match="is there already"):
        convert(source, target)
    assert list(target.iterdir()) == [] and not (tmp_path / "target.part").exists()
