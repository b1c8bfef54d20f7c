"""The model class for VLMEvalKit: on a small stand-in for its contract, and with VLMEvalKit where that is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aot import AOTConfig
from aot_tiny.shapes.clips import sample_clip, write_clip
from aot_tiny.shapes.questions import LETTERS, make_questions
from llava.chat.answer import ChatError
from llava.chat.prompt import Sampling
from llava.chat.session import ChatSession
from llava.decoders.base import VideoError
from llava.eval import vlmevalkit
from llava.model.builder import load_pretrained_model

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "checkpoints" / "aot-tiny")
SEEDS = range(3, 7)
TENTH = {"model_path": TINY, "retention": "10%", "max_new_tokens": 8, "set": ["clips=dynamic"], "device": "cpu"}


class BaseModel:
    """What VLMEvalKit's own does around `generate_inner`."""

    def generate(self, message, dataset=None):
        return self.generate_inner(message, dataset)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for seed in SEEDS:
        write_clip(folder / f"clip{seed}.mp4", seed)
    return folder


@pytest.fixture(scope="module")
def model():
    return type("LlavaAOT", (vlmevalkit.LlavaAOT, BaseModel), {})(**TENTH)


def ours(frames: int, config: AOTConfig | None) -> ChatSession:
    tokenizer, model, processor, context = load_pretrained_model(TINY, device_map="cpu", torch_dtype="float32")
    sampling = Sampling(frames, None, tell_times=False)
    return ChatSession(model, tokenizer, processor, context, compression=config, sampling=sampling, max_new_tokens=8)


def about(path: Path, *texts: str) -> list[dict]:
    """As Video-MME asks: an empty text, the video, what to do, the question."""
    parts = [{"type": "text", "value": ""}, {"type": "video", "value": str(path)}]
    return parts + [{"type": "text", "value": text} for text in texts]


def test_replies_are_those_of_the_chat_under_the_setting(model, clips):
    session = ours(6, AOTConfig(retention=0.1, clips="dynamic"))
    assert model.session.compression == session.compression
    model.nframe, model.fps = 6, None  # as VLMEvalKit passes on a benchmark's number of frames
    for seed in SEEDS:
        path = clips / f"clip{seed}.mp4"
        session.set_video(str(path))
        for question in make_questions(sample_clip(seed))[:3]:
            said = model.generate(about(path, "Answer in a word.\n", question.text))
            assert said == session.ask(f"Answer in a word.\n{question.text}", remember=False).text
    assert len(model.session.loaded.video.times) == 6 and not model.session.turns


def test_frames_follow_the_benchmark_and_a_video_is_encoded_once(model, clips, monkeypatch):
    encoded = []
    encode = model.session.model.encode_video
    monkeypatch.setattr(
        model.session.model, "encode_video", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    path = clips / "clip3.mp4"
    for model.nframe, model.fps in ((5, None), (5, None), (None, 1.0), (None, None)):
        model.generate(about(path, "What is it?"))
    seconds = model.session.loaded.video.duration
    usual = model.session.model.config.mm_video_frames
    assert encoded[0] == 5 and len(encoded) == 3 and abs(encoded[1] - seconds) <= 1 and encoded[2] == usual


def test_images_are_shown_and_a_question_of_text_alone_forgets_the_video(model, clips, tmp_path):
    model.nframe, model.fps = 4, None
    picture = tmp_path / "red.png"
    Image.fromarray(np.full((32, 32, 3), (255, 0, 0), np.uint8)).save(picture)
    model.generate([{"type": "image", "value": str(picture)}, *about(clips / "clip3.mp4", "What is it?")])
    assert [image.path for image in model.session.images] == [str(picture)] and model.session.loaded is not None
    model.generate([{"type": "image", "value": str(picture)}, {"type": "text", "value": "What is it?"}])
    assert len(model.session.images) == 1 and model.session.loaded is None


def test_what_cannot_be_asked_ends_the_benchmark(model, clips, tmp_path):
    message = about(clips / "clip3.mp4", "What is it?")
    with pytest.raises(ChatError, match="2 videos"):
        model.generate([message[1], *message])
    (tmp_path / "cut.mp4").write_bytes((clips / "clip3.mp4").read_bytes()[:2000])
    with pytest.raises(VideoError):
        model.generate(about(tmp_path / "cut.mp4", "What is it?"))


def test_wrong_options_are_told_as_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        vlmevalkit.LlavaAOT(retension="10%")
    assert "did you mean --retention?" in capsys.readouterr().err
    assert vlmevalkit.main([]) == 2 and "run.py" in capsys.readouterr().err


def video_mme(hub: Path, clips: Path) -> list[dict]:
    """Video-MME's files as the hub's cache has them, with three questions about each clip; its rows."""
    pandas = pytest.importorskip("pandas")
    snapshot = hub / "datasets--lmms-lab--Video-MME" / "snapshots" / "a"
    for folder in ("video", "subtitle", "videomme"):
        (snapshot / folder).mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a")
    kinds = {"domain": "Knowledge", "sub_category": "Astronomy", "task_type": "Object Recognition"}
    rows = []
    for seed in SEEDS:
        (snapshot / "video" / f"clip{seed}.mp4").write_bytes((clips / f"clip{seed}.mp4").read_bytes())
        asked = [question for question in make_questions(sample_clip(seed)) if len(question.choices) >= 4][:3]
        for number, question in enumerate(asked):
            letter = LETTERS[(seed + number) % 4]
            options = question.options(np.random.default_rng(seed), letter)
            lettered = [f"{a}. {option}." for a, option in zip(LETTERS, options, strict=True)]
            row = {"videoID": f"clip{seed}", "duration": "short", "question": question.text, "answer": letter}
            rows.append({**kinds, **row, "options": lettered})
    pandas.DataFrame(rows).to_parquet(snapshot / "videomme" / "test-00000-of-00001.parquet")
    return rows


@pytest.mark.slow
def test_vlmevalkit_itself_scores_as_ours_does(clips, tmp_path):
    found = importlib.util.find_spec("vlmeval")
    if found is None:
        pytest.skip("VLMEvalKit is not here")
    rows = video_mme(tmp_path / "hub", clips)
    settings = {"all": ("100%", None), "quarter": ("25%", AOTConfig(retention=0.25))}
    models = {
        name: {"class": "LlavaAOT", "model_path": TINY, "retention": share, "max_new_tokens": 8}
        for name, (share, _) in settings.items()
    }
    data = {"Video-MME_8frame": {"class": "VideoMME", "dataset": "Video-MME", "nframe": 8}}
    (tmp_path / "config.json").write_text(json.dumps({"model": models, "data": data}))
    script = Path(found.origin).parents[1] / "run.py"
    command = [sys.executable, "-m", "llava.eval.vlmevalkit", str(script), "--config", "config.json"]
    places = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "LMUData": str(tmp_path / "lmu")}
    subprocess.run(
        [*command, "--judge", "exact_matching", "--work-dir", "out"], cwd=tmp_path, env={**os.environ, **places},
        check=True, timeout=900,
    )  # fmt: skip

    import pandas

    for name, (_, config) in settings.items():
        (file,) = (tmp_path / "out" / name).glob("T*/*_score.xlsx")
        scored = pandas.read_excel(file)
        session = ours(8, config)
        right = []
        for row, theirs in zip(rows, scored.to_dict("records"), strict=True):
            session.set_video(str(clips / f"{row['videoID']}.mp4"))
            lines = [
                "These are the frames of a video. Select the best answer to the following multiple-choice question "
                "based on the video. Respond with only the letter (A, B, C, or D) of the correct option.",
                f"Question: {row['question']}", *row["options"], "Answer:",
            ]  # fmt: skip
            said = session.ask("\n".join(lines), remember=False).text
            assert said == theirs["prediction"]
            right.append(said[:1] == row["answer"])
        assert right == [score == 1 for score in scored["score"]]
