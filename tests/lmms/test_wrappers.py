"""Both wrappers of the method and both stock ones, in this process: answers, records, and every way to fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval")

from lmms_eval.models import get_model

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.eval.lmms.questions import EMPTY, FAILED
from llava.eval.store import ResponseStore
from llava.mm_utils import tokenizer_image_token
from llava.video import load_video

EMBEDDED = Path(__file__).resolve().parents[2] / "checkpoints" / "aot-tiny"
QUESTION = "How many objects appear in the video in total?\nAnswer the question using a single word or phrase."
STOCK = {"device": "cpu", "device_map": "auto", "conv_template": "qwen_1_5", "max_frames_num": 4}
# how the stock wrappers arrange the videos of this checkpoint
AS_STOCK = {
    "llava_onevision": {"mm_spatial_pool_mode": "bilinear"},
    "llava_vid": {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid"},
}


def build(name, **arguments):
    return get_model(name)(pretrained=str(EMBEDDED), batch_size=1, **{"max_frames_num": 4, **arguments})


@pytest.fixture(scope="module", params=["llava_onevision", "llava_vid"])
def stock_id(request):
    return request.param


@pytest.fixture(scope="module")
def stock(stock_id):
    return build(stock_id, **STOCK)


@pytest.fixture(scope="module")
def store(stock_id, tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def ours(stock_id, store):
    return build(f"{stock_id}_aot", device="cpu", retention=1, store=str(store), **AS_STOCK[stock_id])


@pytest.fixture
def reduced(ours):
    """The same wrapper under retention 0.25, without loading the model again."""
    saved = ours._config.aot, ours._identity
    from aot import AOTConfig

    ours._config.aot = AOTConfig(retention=0.25)
    ours._identity = {**ours._identity, "settings": {**ours._identity["settings"], "aot": ours._config.aot.to_dict()}}
    yield ours
    ours._config.aot, ours._identity = saved


def records(store):
    with ResponseStore(store) as opened:
        return list(opened.records().values())


def record_of(wrapper, task, number):
    (found,) = [r for r in wrapper._answers.records().values() if r.key == (task, str(number))]
    return found


def test_uncompressed_answers_are_those_of_the_stock_wrapper(stock, ours, clip, ask):
    for prompt in (QUESTION, "Describe the video."):
        (expected,) = ask(stock, [{"video": clip}], prompt, max_new_tokens=12)
        (result,) = ask(ours, [{"video": clip}], prompt, task=f"same {len(prompt)}", max_new_tokens=12)
        assert result.text == (expected or EMPTY)


def test_the_frames_are_those_of_the_stock_wrapper(stock_id, stock, ours, clip):
    if stock_id == "llava_onevision":
        assert np.array_equal(stock.load_video([clip], 4), ours.load_video([clip], 4))
        return
    for most, force in ((4, False), (64, False), (5, True)):
        frames, _, seconds = stock.load_video(clip, most, 1, force_sample=force)
        mine, _, mine_seconds = ours.load_video(clip, most, 1, force_sample=force)
        assert np.array_equal(frames, mine) and seconds == pytest.approx(mine_seconds)


def test_answers_are_those_of_direct_generation(ours, clip, ask):
    (result,) = ask(ours, [{"video": clip}], QUESTION, task="direct", max_new_tokens=8)
    sampling = {"num_frames": 4} if ours.stock_id == "llava_onevision" else {"num_frames": 4, "fps": 1}
    pixels = ours._image_processor.preprocess(load_video(clip, **sampling).frames, return_tensors="pt")["pixel_values"]
    conversation = conv_templates["qwen_1_5"].copy()
    conversation.append_message(conversation.roles[0], f"<image>\n{QUESTION}")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(
        conversation.get_prompt(), ours.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt"
    )[None]  # fmt: skip
    with torch.inference_mode():
        out = ours.model.generate(ids, images=[pixels], modalities=["video"], max_new_tokens=8, do_sample=False)
    assert result.text == (ours.tokenizer.batch_decode(out, skip_special_tokens=True)[0].strip() or EMPTY)


def test_the_record_says_what_a_question_cost(reduced, clip, ask):
    (result,) = ask(reduced, [{"video": clip}], QUESTION, task="cost")
    record = record_of(reduced, "cost", 0)
    assert record.reply == result.text and record.failure is None and record.prompt == QUESTION
    assert record.details["settings"]["aot"]["retention"] == 0.25 and record.details["settings"]["frames"] == 4
    tokens, shares, seconds = record.tokens, record.details["retention"], record.seconds
    side = 12  # 24x24 patches, pooled by 2
    assert tokens["frames"] == 4 and tokens["visual_before"] == 4 * side**2
    assert tokens["visual"] == tokens["visual_before"] // 4 and tokens["newlines"] == 4
    before = tokens["visual_before"] + tokens["newlines_before"]
    assert tokens["newlines_before"] == (4 if reduced.stock_id == "llava_onevision" else 4 * side)
    assert shares == {"visual": 0.25, "with_newlines": (tokens["visual"] + 4) / before}
    assert 1 <= tokens["generated"] <= 4
    assert all(seconds[name] > 0 for name in ("decode", "tower", "compress", "first_token", "total"))
    assert seconds["total"] > seconds["first_token"] > seconds["tower"]
    assert result.token_counts.to_dict()["retention"] == shares  # goes into lmms-eval's own rows


def test_uncompressed_counts_are_all_tokens(ours, clip, ask):
    ask(ours, [{"video": clip}], QUESTION, task="all")
    assert record_of(ours, "all", 0).details["retention"] == {"visual": 1.0, "with_newlines": 1.0}


def test_failed_questions_are_recorded_and_the_run_goes_on(ours, clip, cut_clip, ask):
    docs = [{"video": clip}, {"video": cut_clip}, {"video": clip + ".gone"}, {"video": clip}]
    results = ask(ours, docs, QUESTION, task="mixed")
    failures = [record_of(ours, "mixed", i).failure for i in range(4)]
    assert failures[0] is None and failures[3] is None and results[0].text == results[3].text
    assert "VideoError" in failures[1] and cut_clip in failures[1]
    assert "There is no video at" in failures[2]
    for number in (1, 2):
        assert results[number].text == FAILED and record_of(ours, "mixed", number).reply is None
        assert record_of(ours, "mixed", number).tokens["generated"] == 0  # nothing was said from text alone


def test_the_stock_wrappers_stop_at_such_a_question(stock, cut_clip, clip, tmp_path, ask):
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    for video in (str(empty), clip + ".gone"):
        with pytest.raises(SystemExit, match=video):
            ask(stock, [{"video": video}, {"video": clip}])


def test_a_missing_benchmark_file_is_a_failed_question(ours, ask, monkeypatch):
    def leave(doc):
        raise SystemExit("video path:/there/is/none.mp4 does not exist, please check")

    monkeypatch.setattr(ask, "visuals", leave)
    (result,) = ask(ours, [{"video": "none"}], task="missing")
    assert result.text == FAILED and "none.mp4 does not exist" in record_of(ours, "missing", 0).failure


def test_an_exception_inside_generate(stock, ours, clip, ask, monkeypatch):
    def out_of_memory(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ours._model, "generate", out_of_memory)
    monkeypatch.setattr(stock._model, "generate", out_of_memory)
    (result,) = ask(ours, [{"video": clip}], task="memory")
    assert result.text == FAILED and record_of(ours, "memory", 0).failure == "RuntimeError: out of memory"
    with pytest.raises(SystemExit, match="out of memory"):
        ask(stock, [{"video": clip}])


def test_an_interrupted_run_asks_nothing_twice(stock_id, ours, store, clip, ask, monkeypatch):
    docs = [{"video": clip}, {"video": clip + ".gone"}]
    first = ask(ours, docs, QUESTION, task="again")

    def never(*_, **__):
        raise AssertionError("asked again")

    monkeypatch.setattr(ours, "_answer", never)
    again = ask(ours, docs, QUESTION, task="again")
    assert [r.text for r in again] == [r.text for r in first]
    monkeypatch.setattr(ours, "_identity", {**ours._identity, "model": "another"})
    with pytest.raises(SystemExit, match="asked again"):
        ask(ours, docs, QUESTION, task="again")
    assert len([r for r in records(store) if r.task == "again"]) == 2


def test_pyav_reads_what_decord_reads(ours, clip, ask, monkeypatch):
    (expected,) = ask(ours, [{"video": clip}], QUESTION, task="decord")
    monkeypatch.setattr(ours, "_decoder", "pyav")
    (result,) = ask(ours, [{"video": clip}], QUESTION, task="pyav")
    assert result.text == expected.text and record_of(ours, "pyav", 0).failure is None


def test_a_folder_of_frames_is_a_video(ours, tmp_path, ask):
    for number in range(1, 13):
        Image.new("RGB", (96, 96), (20 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
    ask(ours, [{"video": str(tmp_path)}], QUESTION, task="mvbench_episodic_reasoning")
    record = record_of(ours, "mvbench_episodic_reasoning", 0)
    assert record.failure is None and record.tokens["frames"] == 4
    video = ours.read(str(tmp_path), num_frames=4)
    assert (np.diff(video.frames[:, 0, 0, 0].astype(int)) > 0).all()  # 2.jpg before 10.jpg


@pytest.fixture
def shown(clip, tmp_path):
    """Visuals by name: two clips, a folder of frames, an image, the path of a picture, a file that is missing."""
    from aot_tiny.shapes.clips import write_clip

    frames, other = tmp_path / "frames", tmp_path / "other.mp4"
    frames.mkdir()
    for number in range(1, 7):
        Image.new("RGB", (96, 96), (40 * number, 0, 0)).save(frames / f"{number}.jpg")
    write_clip(other, 8)
    picture = Image.new("RGB", (96, 48), (200, 30, 30))
    picture.save(tmp_path / "picture.png")
    names = {"A": clip, "B": str(other), "frames": str(frames), "image": picture, "gone": clip + ".gone"}
    return {**names, "path": tmp_path / "picture.png"}


@pytest.fixture
def asked_with(ours, monkeypatch):
    """What the model is given, call by call: (shape, modality) of every visual."""
    calls, generate = [], ours._model.generate

    def watched(*ids, **named):
        kinds = named.get("modalities", "image")
        kinds = [kinds] * len(named["images"]) if isinstance(kinds, str) else kinds
        calls.append([(tuple(x.shape), kind) for x, kind in zip(named["images"], kinds, strict=True)])
        return generate(*ids, **named)

    monkeypatch.setattr(ours._model, "generate", watched)
    return calls


VIDEO, IMAGE = ((4, 3, 192, 192), "video"), ((3, 192, 192), "image")


@pytest.mark.parametrize(
    "names",
    [["A", "B"], ["B", "frames", "A"], ["A", "image"], ["image", "A"], ["path", "B", "image", "frames"], ["frames"]],
)
def test_a_question_about_several_visuals_sees_all_of_them_in_order(
    reduced, asked_with, shown, ask, monkeypatch, names
):
    monkeypatch.setattr(ask, "visuals", lambda doc: tuple(shown[name] for name in doc["names"]))
    task = " ".join(names)
    (result,) = ask(reduced, [{"names": names}], QUESTION, task=task)
    expected = [IMAGE if name in ("image", "path") else VIDEO for name in names]
    assert asked_with == [expected]
    record, videos, images = record_of(reduced, task, 0), expected.count(VIDEO), expected.count(IMAGE)
    assert record.failure is None and result.text == (record.reply or EMPTY)
    # each video has its own frames and its own budget; all of them count
    tokens, newlines = record.tokens, 4 if reduced.stock_id == "llava_onevision" else None
    assert tokens["frames"] == 4 * videos and tokens["visual_before"] == 576 * videos
    assert tokens["visual"] == 144 * videos and record.details["retention"]["visual"] == 0.25
    assert newlines is None or tokens["newlines"] == newlines * videos
    assert [video["visual"] for video in tokens.get("videos", [])] == ([144] * videos if videos > 1 else [])
    assert tokens.get("images", 0) == images and tokens.get("image_tokens", 0) == images * (576 + 1)


def test_marks_in_the_text_say_where_the_visuals_go(ours, shown, ask, monkeypatch):
    monkeypatch.setattr(ask, "visuals", lambda doc: [shown[name] for name in doc["names"]])

    def record(names, prompt):
        ask(ours, [{"names": names}], prompt, task=f"{names} {prompt}")
        return record_of(ours, f"{names} {prompt}", 0)

    marked = record(["A", "B"], "<image>\nFirst clip.\n<image>\nSecond clip. " + QUESTION)
    assert marked.failure is None and marked.tokens["visual"] == 1152
    single = record(["A"], "[00:01] a subtitle says <image> here\n" + QUESTION)
    assert single.failure is None and single.tokens["visual"] == 576
    wrong = record(["A", "B"], "<image>\n" + QUESTION)
    assert wrong.reply is None and "1 <image> marks and 2 visuals" in wrong.failure


@pytest.mark.parametrize(
    "names, words",
    [
        (["A", "gone"], "There is no video at"),
        (["gone", "image"], "There is no video at"),
        (["A", "odd"], "Visual 2 is"),
    ],
)
def test_a_question_of_which_a_visual_is_missing_fails(ours, asked_with, shown, ask, monkeypatch, names, words):
    shown["odd"] = {"array": [0.0], "sampling_rate": 16000}
    monkeypatch.setattr(ask, "visuals", lambda doc: [shown[name] for name in doc["names"]])
    (result,) = ask(ours, [{"names": names}], QUESTION, task=f"missing {names}")
    record = record_of(ours, f"missing {names}", 0)
    assert result.text == FAILED and words in record.failure and not asked_with


def test_a_prompt_that_would_be_cut_is_a_failed_question(ours, shown, ask, monkeypatch):
    monkeypatch.setattr(ask, "visuals", lambda doc: [shown["A"], shown["B"]])
    monkeypatch.setattr(ours._config, "tokenizer_model_max_length", 250)
    (result,) = ask(ours, [{}], QUESTION, task="long")
    assert result.text == FAILED and "fills all 250 tokens" in record_of(ours, "long", 0).failure


def test_the_stock_wrappers_end_where_they_would_see_one_of_several(stock, shown, ask, monkeypatch):
    for names in (["A", "B"], ["A", "image"], ["image", "A"]):
        monkeypatch.setattr(ask, "visuals", lambda doc, names=names: [shown[name] for name in names])
        with pytest.raises(SystemExit, match="2 videos and images"):
            ask(stock, [{}], QUESTION)


def test_a_question_without_a_video_has_no_visual_tokens(ours, ask):
    (result,) = ask(ours, [{}], "What color is a red square?", task="text")
    record = record_of(ours, "text", 0)
    assert record.details["retention"] is None and list(record.tokens) == ["generated"]
    if ours.stock_id == "llava_vid":  # which takes questions about videos only
        assert result.text == FAILED and record.failure
    else:
        assert result.text == (record.reply or EMPTY) and record.failure is None


def test_likelihood_tasks_are_refused(stock, ours):
    for wrapper in (stock, ours):
        with pytest.raises(SystemExit, match="ikelihood"):
            wrapper.loglikelihood([])
    with pytest.raises(SystemExit, match="rounds"):
        ours.generate_until_multi_round([])


def test_without_a_store_nothing_is_kept(ours, clip, ask, monkeypatch):
    monkeypatch.setattr(ours, "_answers", ResponseStore())
    (result,) = ask(ours, [{"video": clip}], QUESTION, task="memory only")
    assert result.text == record_of(ours, "memory only", 0).reply


@pytest.mark.parametrize(
    "name, arguments, says",
    [
        ("llava_onevision_aot", {"retention": 2}, "retention"),
        ("llava_onevision_aot", {"keep": 0.1}, "keep"),
        ("llava_onevision_aot", {"mm_spatial_pool_mode": "median"}, "median"),
        ("llava_onevision_aot", {"mm_spatial_pool_stride": 4}, "stride"),
        ("llava_vid_aot", {"mm_spatial_pool_mode": "median"}, "median"),
        ("llava_vid_aot", {"video_decode_backend": "opencv"}, "opencv"),
        ("llava_onevision", {"mm_spatial_pool_mode": "median", **STOCK}, "median"),
        ("llava_vid", {"mm_spatial_pool_mode": "median", **STOCK}, "median"),
        ("llava_vid", {"video_decode_backend": "pyav", **STOCK}, "decord"),
    ],
)
def test_bad_arguments_end_the_run(name, arguments, says):
    with pytest.raises(SystemExit, match=says):
        build(name, **arguments)


@pytest.mark.parametrize("name", ["llava_onevision", "llava_vid", "llava_onevision_aot", "llava_vid_aot"])
def test_no_checkpoint_ends_the_run(name):
    with pytest.raises(SystemExit, match="pretrained"):
        get_model(name)(batch_size=1)


def checkpoint(folder, **changes):
    shutil.copytree(EMBEDDED, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))
    return str(folder)


@pytest.mark.parametrize(
    "name, position, instead",
    [("llava_onevision", "grid", "llava_vid"), ("llava_vid", "one_token", "llava_onevision")],
)
def test_a_checkpoint_of_the_other_family_ends_the_run(tmp_path, name, position, instead):
    path = checkpoint(tmp_path / "other", mm_newline_position=position)
    for model_id, arguments in ((name, STOCK), (f"{name}_aot", {})):
        with pytest.raises(SystemExit, match=f"use --model {instead}"):
            get_model(model_id)(pretrained=path, batch_size=1, **arguments)


def test_a_path_does_not_change_the_model(tmp_path):
    path = checkpoint(tmp_path / "yi-tiny")
    with pytest.raises(SystemExit, match="llava_vid_aot"):
        get_model("llava_vid")(pretrained=path, batch_size=1, **{**STOCK, "max_frames_num": 64})
    ours = get_model("llava_vid_aot")(pretrained=path, batch_size=1, device="cpu", max_frames_num=64)
    made = json.loads((EMBEDDED / "config.json").read_text())
    assert ours._config.tokenizer_model_max_length == made["tokenizer_model_max_length"]
    assert ours._config.rope_parameters == made["rope_parameters"]


def test_settings_arrive_from_the_command_line(tmp_path, clip, ask):
    text = (
        f'pretrained={EMBEDDED},max_frames_num=4,retention=0.25,method=random,options={{"seed":5}},store={tmp_path}'
    )  # fmt: skip
    ours = get_model("llava_onevision_aot").create_from_arg_string(text, {"batch_size": 1, "device": "cpu"})
    ask(ours, [{"video": clip}], QUESTION)
    (record,) = records(tmp_path)
    settings = record.details["settings"]
    assert settings["aot"]["method"] == "random" and settings["aot"]["options"]["seed"] == 5
    assert settings["frames"] == 4 and record.tokens["visual"] == 144
