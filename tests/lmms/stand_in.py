"""Small stand-ins for benchmarks, laid out as lmms-eval finds the real ones.

The data lie by their hub names below the working folder, the videos below HF_HOME.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from aot_tiny.shapes.clips import render, sample_clip, write_clip
from aot_tiny.shapes.questions import LETTERS, make_questions

SEEDS = (3, 8)  # the clips; every benchmark asks one question about each
# where MVBench's tasks look for their videos
MVBENCH = {
    "object_interaction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "moving_count": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "character_order": "perception/videos",
    "object_shuffle": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "moving_direction": "clevrer/video_validation",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "moving_attribute": "clevrer/video_validation",
    "action_antonym": "ssv2_video_mp4",
    "unexpected_action": "FunQA_test/test",
    "counterfactual_inference": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
}


def make_benchmarks(hub: Path, home: Path) -> None:
    """Writes data below `hub` and videos below `home` (HF_HOME)."""
    clips = home / "clips"
    clips.mkdir(parents=True)
    for seed in SEEDS:
        write_clip(clips / f"{seed}.mp4", seed)
    questions = [_question(seed) for seed in SEEDS]
    _videomme(hub / "lmms-eval/Video-MME", home / "videomme/data", clips, questions)
    _mlvu(hub / "sy1998/MLVU_dev", home / "mlvu", clips, questions)
    _mlvu(hub / "sy1998/MLVU_Test", home / "mlvu_test", clips, questions)
    _egoschema(hub / "lmms-eval/egoschema", home / "egoschema/videos", clips, questions)
    _longvideobench(hub / "longvideobench/LongVideoBench", home / "datasets/longvideobench/videos", clips, questions)
    _mvbench(hub / "OpenGVLab/MVBench", home / "mvbench_video", clips, questions[0])


def _question(seed: int) -> dict:
    """A question about a clip with five options, four of the clip's colours at most."""
    question = next(q for q in make_questions(sample_clip(seed)) if len(q.choices) > 5)
    rng = np.random.default_rng(seed)
    options = [*question.options(rng, LETTERS[seed % 4]), "none of these"]
    return {"seed": seed, "text": question.text, "options": options, "right": seed % 4}


def _data(folder: Path, splits: dict[str, dict[str, list[dict]]]) -> None:
    """JSON lines by configuration and split, and the card that names them."""
    folder.mkdir(parents=True)
    card = ["---", "configs:"]
    for config, files in splits.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in files.items():
            name = f"{config}-{split}.jsonl"
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            card += [f"  - split: {split}", f"    path: {name}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def _videos(clips: Path, folder: Path, names: dict[int, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in names.items():
        shutil.copy(clips / f"{seed}.mp4", folder / name)


def _lettered(question: dict, count: int, form: str = "{}. {}") -> list[str]:
    return [form.format(letter, option) for letter, option in zip("ABCDE", question["options"][:count], strict=False)]


def _videomme(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"v{q['seed']}.mp4" for q in questions})
    kinds = {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "task_type": "Object Recognition",
    }
    rows = [
        {
            **kinds,
            "question_id": f"{q['seed']}-1",
            "videoID": f"v{q['seed']}",
            "question": q["text"],
            "options": _lettered(q, 4),
            "answer": LETTERS[q["right"]],
        }
        for q in questions
    ]
    _data(data, {"default": {"test": rows}})


def _mlvu(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "video_name": f"{q['seed']}.mp4",
            "question": "\n".join([q["text"], *_lettered(q, 4, "({}) {}")]),
            "answer": LETTERS[q["right"]],
            "task_type": kind,
        }
        for q, kind in zip(questions, ("count", "order"), strict=True)
    ]
    _data(data, {"default": {"test": rows}})


def _egoschema(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"ego{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "video_idx": f"ego{q['seed']}",
            "question": q["text"],
            "option": _lettered(q, 5),
            "answer": str(q["right"]),
        }
        for q in questions
    ]
    _data(data, {"Subset": {"test": rows}})


def _longvideobench(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "id": f"{q['seed']}_0",
            "video_path": f"{q['seed']}.mp4",
            "question": q["text"],
            **{f"option{i}": option for i, option in enumerate(q["options"])},
            "correct_choice": q["right"],
            "duration_group": 15,
            "question_category": "S2E",
        }
        for q in questions
    ]
    _data(data, {"default": {"validation": rows}})


def _mvbench(data: Path, videos: Path, clips: Path, question: dict) -> None:
    seed, options = question["seed"], question["options"][:4]
    for folder in MVBENCH.values():
        _videos(clips, videos / folder, {seed: f"{seed}.mp4"})
    frames = videos / MVBENCH["episodic_reasoning"] / "frames"
    frames.mkdir()
    for number, frame in enumerate(render(sample_clip(seed), np.arange(12.0)), start=1):
        Image.fromarray(frame).save(frames / f"{number:05d}.jpg")
    row = {"question": question["text"], "candidates": options, "answer": options[question["right"]]}
    videos_of = {task: f"{seed}.mp4" for task in MVBENCH} | {"episodic_reasoning": "frames"}
    _data(data, {task: {"train": [{"video": video, **row}]} for task, video in videos_of.items()})
