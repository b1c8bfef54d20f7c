"""Wrappers of transformers' models with the method: through the stock wrapper's own code, on tiny checkpoints."""

import io
import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

import numpy as np
import torch
import transformers
from lmms_eval.models import get_model
from PIL import Image

from ..hf.checkpoints import make

WRAPPERS = {"qwen2_5_vl_aot": "qwen2_5_vl", "qwen3_vl_aot": "qwen3_vl", "internvl_aot": "internvl"}
FRAMES = {"qwen2_5_vl_aot": "max_num_frames", "qwen3_vl_aot": "max_num_frames", "internvl_aot": "num_frames"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {name: str(make(tmp_path_factory.mktemp(name) / "model", kind)) for name, kind in WRAPPERS.items()}


@pytest.fixture(params=WRAPPERS)
def name(request):
    return request.param


def built(checkpoints, name, **arguments):
    arguments = {"batch_size": 1, "device": "cpu", FRAMES[name]: 8, **arguments}
    if name != "internvl_aot":
        arguments = {"min_pixels": 64, "max_pixels": 8 * 8 * 36, **arguments}
    return get_model(name)(pretrained=checkpoints[name], **arguments)


def test_a_question_is_answered_and_recorded(checkpoints, name, ask, clip):
    """With a share of the tokens and with all; the records say what was paid, and all is what the model says itself."""
    replies = {}
    for retention in (0.25, 1):
        wrapper = built(checkpoints, name, retention=retention)
        (result,) = ask(wrapper, [{"video": clip}], max_new_tokens=4)
        (record,) = wrapper._answers.records().values()
        tokens = record.tokens
        assert record.failure is None and tokens["generated"] == 4 and tokens["frames"] == 8
        assert tokens["visual"] == int(retention * tokens["visual_before"]) and tokens["newlines"] == 0
        assert record.details["retention"] == {"visual": retention, "with_newlines": retention}
        assert (record.details["settings"]["aot"] is None) == (retention == 1)
        seconds = record.seconds
        assert 0 < seconds["decode"] < seconds["total"] and 0 < seconds["tower"] < seconds["first_token"]
        assert ("compress" in seconds) == (retention < 1)
        replies[retention] = result.text
        wrapper.clean()
    assert replies[0.25] != replies[1] or name == "qwen2_5_vl_aot"  # random weights, which may repeat themselves


def test_encoded_videos_are_not_kept(name):
    with pytest.raises(SystemExit, match="cache is for llava_onevision_aot and llava_vid_aot"):
        get_model(name)(pretrained="any", cache="auto")


def test_the_stock_prompt_reaches_the_model(checkpoints, name, ask, clip):
    wrapper, seen = built(checkpoints, name, retention=0.5), []
    wrapper._model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ask(wrapper, [{"video": clip}], "What turns <|im_end|> red?", max_new_tokens=1)
    text = wrapper.tokenizer.decode(seen[0][0])
    system = "You are a helpful assistant." in text
    assert system == (name != "internvl_aot")
    assert "< |im_end|> red?" in text and text.endswith("<|im_start|>assistant\n")


def test_several_videos_and_none(checkpoints, name, ask, clip):
    wrapper = built(checkpoints, name, retention=0.25, tower_reuse=0)
    ask.visuals = lambda doc: doc["videos"]
    ask(wrapper, [{"videos": [clip, clip]}, {"videos": []}], max_new_tokens=2)
    two, none = wrapper._answers.records().values()
    if two.tokens.get("videos") is None:
        two, none = none, two
    assert two.failure is None and len(two.tokens["videos"]) == 2
    assert 0 < two.tokens["tower_share"] <= 1
    assert two.tokens["visual"] == sum(one["visual"] for one in two.tokens["videos"])
    assert none.tokens == {"generated": 2} and none.details["retention"] is None


def test_what_cannot_be_read_is_a_failure(checkpoints, name, ask, cut_clip):
    wrapper = built(checkpoints, name, retention=0.25)
    ask.visuals = lambda doc: doc["visuals"]
    beside = [Image.new("RGB", (20, 20)), "/no/such/file.webm"]
    ask(wrapper, [{"visuals": [cut_clip]}, {"visuals": beside}, {"visuals": [7]}])
    reasons = [record.failure for record in wrapper._answers.records().values()]
    assert sorted(reason.split(":")[0] for reason in reasons) == ["VideoError", "VideoError", "VisualError"]


@pytest.fixture(scope="module")
def images():
    """Two images of different shapes."""
    drawn = np.random.default_rng(0).integers(0, 255, (2, 40, 90, 3), dtype=np.uint8)
    return [Image.fromarray(drawn[0]), Image.fromarray(drawn[1, :, :48])]


def calls_of(wrapper) -> list[dict]:
    """The arguments of every call of its model's generate from now on."""
    seen, generate = [], wrapper._model.generate
    wrapper._model.generate = lambda **inputs: seen.append(inputs) or generate(**inputs)
    return seen


def by_transformers(folder: str, name: str, image: Image.Image) -> tuple[torch.Tensor, int]:
    """(pixels, visual tokens) of an image, by the image processor of the checkpoint."""
    pillow = {"backend": "pil"} if transformers.__version__ >= "5" else {"use_fast": False}
    limits = {"min_pixels": 64, "max_pixels": 8 * 8 * 36}
    if name == "qwen2_5_vl_aot":  # whose stock wrapper writes JPEGs
        written = io.BytesIO()
        image.save(written, format="JPEG", quality=85)
        image = Image.open(written)
    options = {"crop_to_patches": True} if name == "internvl_aot" else limits
    made = transformers.AutoImageProcessor.from_pretrained(folder, **pillow, **options)
    found = made(images=[image], return_tensors="pt")
    patches = len(found["pixel_values"]) * (36 if name == "internvl_aot" else 1)
    return found["pixel_values"], patches // 4


def test_images_beside_a_video_reach_the_model_whole(checkpoints, name, ask, clip, images):
    """Each at its place, with the pixels of transformers' own processor; only the video is reduced."""
    wrapper = built(checkpoints, name, retention=0.25)
    calls = calls_of(wrapper)
    ask.visuals = lambda doc: doc["visuals"]
    ask(wrapper, [{"visuals": [images[0], clip, images[1]]}], max_new_tokens=2)
    (record,), (call,) = wrapper._answers.records().values(), calls
    (first, many), (second, few) = (by_transformers(checkpoints[name], name, image) for image in images)
    tokens = record.tokens
    assert record.failure is None and many != few
    assert (tokens["images"], tokens["image_tokens"], tokens["frames"]) == (2, many + few, 8)
    assert tokens["visual"] == int(0.25 * tokens["visual_before"])
    # runs of placeholders in the order of the task: an image, the frames, an image
    config = wrapper._model.config
    image_id, video_id = config.image_token_id, getattr(config, "video_token_id", None)
    runs = [(key, len(list(run))) for key, run in groupby(call["input_ids"][0].tolist())]
    runs = [run for run in runs if run[0] in (image_id, video_id)]
    assert (runs[0], runs[-1]) == ((image_id, many), (image_id, few))
    assert sum(count for _, count in runs[1:-1]) == tokens["visual_before"]
    pixels = call["pixel_values"].float()
    if name == "internvl_aot":
        assert call["video_frames"] == [range(len(first), len(first) + 8)]
        pixels = torch.cat([pixels[: len(first)], pixels[len(first) + 8 :]])
    torch.testing.assert_close(pixels, torch.cat([first, second]).to(call["pixel_values"].dtype).float())


def test_images_alone_are_answered_as_without_the_method(checkpoints, name, ask, images):
    replies, pixels = [], []
    for retention in (0.25, 1):
        wrapper = built(checkpoints, name, retention=retention)
        calls = calls_of(wrapper)
        ask.visuals = lambda doc: doc["visuals"]
        (result,) = ask(wrapper, [{"visuals": images}], max_new_tokens=4)
        (record,) = wrapper._answers.records().values()
        assert record.failure is None and record.tokens == {"generated": 4} and record.details["retention"] is None
        replies.append(result.text)
        pixels.append(calls[0]["pixel_values"])
    assert replies[0] == replies[1] and torch.equal(*pixels)


@pytest.mark.parametrize("name", ["qwen2_5_vl_aot", "qwen3_vl_aot"])
def test_a_prompt_that_names_a_part_of_the_visuals_is_a_failure(checkpoints, name, ask, clip, images):
    """The stock wrapper would leave the others out in silence; named visuals go where their names are."""
    ask.visuals = lambda doc: doc["visuals"]
    wrapper = built(checkpoints, name, retention=0.25, interleave_visuals=True)
    ask(wrapper, [{"visuals": [images[0], clip]}], "What is in <image 2>?")
    (record,) = wrapper._answers.records().values()
    assert record.failure.startswith("VisualError: The prompt names 1 of 2 visuals")
    wrapper = built(checkpoints, name, retention=0.25, interleave_visuals=True)
    calls = calls_of(wrapper)
    ask(wrapper, [{"visuals": [images[0], clip]}], "Is <image 2> like <image 1>?")
    (record,) = wrapper._answers.records().values()
    config, ids = wrapper._model.config, calls[0]["input_ids"][0].tolist()
    assert record.failure is None and ids.index(config.video_token_id) < ids.index(config.image_token_id)


def test_a_store_keeps_answers(checkpoints, name, ask, clip, tmp_path):
    store = str(tmp_path / "store")
    first = built(checkpoints, name, retention=0.25, store=store)
    ask(first, [{"video": clip}], max_new_tokens=2)
    first.clean()
    again = built(checkpoints, name, retention=0.25, store=store)
    again._ask = None  # nothing is asked twice
    (result,) = ask(again, [{"video": clip}], max_new_tokens=2)
    assert result.token_counts.record.tokens["generated"] == 2
    again.clean()


def test_other_prompts_and_images_are_other_answers(checkpoints, name):
    """What an answer is stored under tells them apart."""
    prompts = [{"interleave_visuals": True}, {"system_prompt": "Be brief."}]
    others = [{"max_patches": 3}] if name == "internvl_aot" else prompts
    found = [built(checkpoints, name, retention=0.25, **other)._identity for other in ({}, *others)]
    assert all(found.count(one) == 1 for one in found)


def test_limits_are_those_of_the_stock_arguments(checkpoints, ask, clip):
    """Pixels of a frame; for Qwen3-VL pixels of all frames together; frames a second."""
    small = built(checkpoints, "qwen2_5_vl_aot", max_pixels=8 * 8 * 9, retention=1)
    total = built(checkpoints, "qwen3_vl_aot", total_pixels=8 * 8 * 2 * 40, retention=1)
    slow = built(checkpoints, "internvl_aot", fps=0.25, retention=1)
    for wrapper, frames, most in ((small, 8, 4 * 9), (total, 8, 40), (slow, 4, 4 * 9)):
        ask(wrapper, [{"video": clip}], max_new_tokens=1)
        (record,) = wrapper._answers.records().values()
        assert record.tokens["frames"] == frames and record.tokens["visual_before"] <= most
        assert torch.cuda.is_available() or str(wrapper.device) == "cpu"


def test_what_cannot_work_ends_with_one_sentence(checkpoints, name):
    for arguments, text in (
        ({"method": "fastv"}, "inside the language model"),
        ({"video_decode_backend": "x"}, "decod"),
    ):
        with pytest.raises(SystemExit, match=text):
            built(checkpoints, name, **arguments)
    with pytest.raises(SystemExit, match="pretrained=CHECKPOINT"):
        get_model(name)(device="cpu")
    other = next(folder for id_, folder in checkpoints.items() if id_ != name)
    with pytest.raises(SystemExit, match="this wrapper takes"):
        get_model(name)(pretrained=other, device="cpu")


@pytest.mark.skipif(transformers.__version__ < "5", reason="the class is of transformers 5")
def test_a_mixture_of_experts_is_known_by_its_config(tmp_path, ask, clip, images):
    """Whatever its folder is called, it is loaded whole; the stock wrapper looks for "A3B" in the path."""
    folder = str(make(tmp_path / "model", "qwen3_5_moe"))
    wrapper = built({"qwen3_vl_aot": folder}, "qwen3_vl_aot", retention=0.25)
    assert type(wrapper._model).__name__ == "Qwen3_5MoeForConditionalGeneration"
    ask.visuals = lambda doc: doc["visuals"]
    ask(wrapper, [{"visuals": [images[0], clip]}], max_new_tokens=2)
    (record,) = wrapper._answers.records().values()
    assert record.failure is None and record.tokens["images"] == 1
    assert record.tokens["visual"] == int(0.25 * record.tokens["visual_before"])


@pytest.mark.slow
def test_a_table_of_a_sweep(checkpoints, tmp_path):
    """`aot benchmark` on an offline task of this project: lmms-eval finds the id, and the table has both rows."""
    words = ["benchmark", "--name", "tiny", "--model", "internvl_aot", "--model-path", checkpoints["internvl_aot"]]
    words += ["--args", "num_frames=4", "--tasks", "aot_clips_open", "--retention", "25%", "--limit", "2"]
    words += ["--device", "cpu", "--output", str(tmp_path / "sweeps")]
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    command, environment = [sys.executable, "-m", "aot_cli", *words], {**os.environ, **settings}
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    table = (tmp_path / "sweeps" / "tiny" / "tiny.csv").read_text().splitlines()
    assert any("25" in line for line in table) and any("all tokens" in line for line in table)
    rows = [json.loads(line) for path in tmp_path.rglob("answers-*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(row["record"]["details"]["retention"]["visual"] for row in rows) == [0.25, 0.25, 1, 1]
