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
    _videomme_v2(hub / "MME-Benchmarks/Video-MME-v2", home / "videomme_v2", clips, questions)
    _lvbench(hub / "lmms-eval/LVBench", home / "lvbench", clips, questions)
    _tempcompass(hub / "lmms-eval/TempCompass", home / "tempcompass/videos", clips, questions)
    _mmvu(hub / "lmms-eval/MMVU", home / "mmvu", clips, questions)
    _videoevalpro(hub / "TIGER-Lab/VideoEval-Pro", home / "videoevalpro/videos_filtered", clips, questions)
    _cgbench(hub / "CG-Bench/CG-Bench", home / "cg_videos_720p", clips, questions)
    _longtimescope(hub / "Apollo-LMMs/LongTimeScope2", home / "longtimescope", clips, questions)
    _vinoground(hub / "HanSolo9682/Vinoground", home / "vinoground", clips, questions)


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


def _videomme_v2(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    """A group of four questions about each clip: the same one, its options turned by one from question to question."""
    _videos(clips, videos, {q["seed"]: f"{q['seed']:03d}.mp4" for q in questions})
    kinds = {"level": "1", "second_head": "Visual", "third_head": "Colour"}
    rows = []
    for q, (group, structure) in zip(questions, (("relevance", ""), ("logic", "[1, [2, 3], 4]")), strict=True):
        for turn in range(4):
            options = q["options"][turn:4] + q["options"][:turn]
            row = {"video_id": f"{q['seed']:03d}", "question_id": f"{q['seed']:03d}-{turn + 1}", **kinds}
            row |= {"group_type": group, "group_structure": structure, "question": q["text"]}
            row |= {
                "options": "\n".join(_lettered({"options": options}, 4)),
                "answer": LETTERS[(q["right"] - turn) % 4],
            }
            rows.append(row)
    _data(data, {"default": {"test": rows}})


def _lvbench(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "video_path": f"{q['seed']}.mp4",
            "question": "\n".join([q["text"], *_lettered(q, 4, "({}) {}")]),
            "answer": LETTERS[q["right"]],
        }
        for q in questions
    ]
    _data(data, {"default": {"train": rows}})


def _tempcompass(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    splits: dict[str, dict[str, list[dict]]] = {}
    for name in ("multi-choice", "yes_no", "caption_matching"):
        splits[name] = {"test": []}
        for q, dim in zip(questions, ("action", "order"), strict=True):
            right = q["options"][q["right"]]
            asked = {
                "multi-choice": ([q["text"], *_lettered(q, 4)], f"{LETTERS[q['right']]}. {right}"),
                "yes_no": ([f"Is it {right}?"], "yes"),
                "caption_matching": (["Which one?", f"Option 1: {right}", "Option 2: nothing"], f"Option 1: {right}"),
            }
            lines, answer = asked[name]
            row = {"video_id": str(q["seed"]), "question": "\n".join(lines), "answer": answer, "dim": dim}
            splits[name]["test"].append(row)
    _data(data, splits)


def _mmvu(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos / "Art", {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = []
    for q, kind in zip(questions, ("multiple-choice", "open-ended"), strict=True):
        choices = dict(zip("ABCDE", q["options"], strict=True))
        answer = LETTERS[q["right"]] if kind == "multiple-choice" else q["options"][q["right"]]
        row = {"id": f"validation_{q['seed']}", "video_path": f"Art/{q['seed']}.mp4", "question_type": kind}
        rows.append({**row, "question": q["text"], "choices": choices, "answer": answer})
    _data(data, {"default": {"validation": rows}})


def _videoevalpro(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "video": f"{q['seed']}.mp4",
            "question": q["text"],
            "options": _lettered(q, 4),
            "answer": LETTERS[q["right"]],
            "answer_text": q["options"][q["right"]],
            "qa_type": "Local Perception",
        }
        for q in questions
    ]
    _data(data, {"default": {"test": rows}})


def _cgbench(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "qid": q["seed"],
            "video_uid": str(q["seed"]),
            "question": q["text"],
            "choices": q["options"],
            "right_answer": LETTERS[q["right"]],
            "duration": 8,
            "domain": "Knowledge",
            "sub_category": "Astronomy",
        }
        for q in questions
    ]
    _data(data, {"cg-bench-mini": {"train": rows}})


def _longtimescope(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    _videos(clips, videos, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
    rows = [
        {
            "id": str(q["seed"]),
            "video": f"{q['seed']}.mp4",
            "input": "\n".join([q["text"], *_lettered(q, 4)]),
            "answer": LETTERS[q["right"]],
            "length": 36000,
            "type": "QA",
        }
        for q in questions
    ]
    _data(data, {"default": {"test": rows}})


def _vinoground(data: Path, videos: Path, clips: Path, questions: list[dict]) -> None:
    """One pair of clips: which caption fits each, and which of two clips each caption fits."""
    rows = []
    for kind, folder, file in (
        ("text", "vinoground_videos", "vinoground_textscore.json"),
        ("video", "vinoground_videos_concated", "vinoground_videoscore.json"),
    ):
        _videos(clips, videos / folder, {q["seed"]: f"{q['seed']}.mp4" for q in questions})
        asked = []
        for q, sign, letter in zip(questions, ("pos", "neg"), "AB", strict=True):
            right, other = q["options"][q["right"]], q["options"][-1]
            two = [right, other] if letter == "A" else [other, right]
            text = "\n".join([q["text"], *_lettered({"options": two}, 2)])
            asked.append(
                {"idx": f"0_{sign}", "video_name": f"{folder}/{q['seed']}.mp4", "question": text, "GT": letter}
            )
        (videos / folder / file).write_text(json.dumps(asked))
        rows += [{"index": f"{row['idx']}_{kind}", "major": "object", "minor": None} for row in asked]
    _data(data, {"default": {"lmmseval": rows}})
