"""Sits the held-out exam with a model under several settings: `python -m llava.eval.evaluate`.

Names of settings: see `llava.eval.exam.settings`. Each leaves a folder with `questions.jsonl`, a record of every reply,
and `result.json`, which says what it was made with and what the reduction cost; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import aot
from aot_cli.main import entry
from aot_cli.parser import Parser
from aot_tiny.shapes.clips import sample_clip
from aot_tiny.shapes.questions import CAPTION_PROMPTS, caption, caption_f1, choice_correct, open_correct
from llava.eval.exam.compress_clip import Counts, compress_clip, counts_inside, fit_anchors, own_cost
from llava.eval.exam.feature_cache import FeatureCache, shared_plan
from llava.eval.exam.generate_plain import generate_plain
from llava.eval.exam.items import QUESTIONS, SEED, Item, clip_files, make_exam
from llava.eval.exam.query import Query, Reply, query
from llava.eval.exam.settings import KNOWN, Setting, parse_setting
from llava.eval.jsonl import write_json
from llava.eval.provenance import folder_hash
from llava.eval.records import Record, write_records
from llava.model.builder import load_pretrained_model
from llava.utils import shipped

DEFAULT_SETTINGS = ("full", "aot@0.25", "aot@0.15", "aot@0.1", "random@0.1", "blank")
FORMS = ("open", "choice", "likelihood", "caption")
CAPTIONED = 50  # clips whose captions are scored
FITTED = 8  # clips on which a preset's num_anchors is found


class Evaluator:
    """A model, its tokenizer and the clips of an exam, to be asked under any setting."""

    def __init__(self, model, tokenizer, cache: FeatureCache):
        self.model, self.tokenizer, self.cache = model, tokenizer, cache

    def query(self, number: int, asked: Sequence[Query], setting: Setting) -> tuple[list[Reply], Counts | None]:
        """Replies about a clip, and the tokens that they were made from (None for all)."""
        video = self.cache.blank() if setting.blank else self.cache.clip(number)
        if setting.inside:
            self.model.config.aot = setting.config.to_dict()
            return generate_plain(self.model, self.tokenizer, video, asked), counts_inside(self.model)
        tokens, counts = compress_clip(self.model, video, setting, seed=number)
        return query(self.model, self.tokenizer, tokens, asked), counts

    def fitted(self, setting: Setting, numbers: Sequence[int]) -> Setting:
        """The setting with its num_anchors found, where it has token counts of its own."""
        return fit_anchors(self.model, [self.cache.clip(n) for n in numbers[:FITTED]], setting)


def run_exam(evaluator: Evaluator, items: list[Item], setting: Setting, *, captioned: int = CAPTIONED, progress=None):
    """(records, counts of tokens) of every clip of the exam, clip by clip."""
    records, counts = [], []
    numbers = sorted({item.clip for item in items})
    for done, number in enumerate(numbers):
        mine = [item for item in items if item.clip == number]
        asked = [Query(item.question.open_prompt(), 8, item.options) for item in mine]
        asked += [Query(item.choice_prompt, 8) for item in mine]
        asked += [Query(CAPTION_PROMPTS[0], 120)] if done < captioned else []
        said, kept = evaluator.query(number, asked, setting)
        records += _score(number, mine, said)
        counts.append(kept)
        if progress:
            progress(setting.name, done + 1, len(numbers))
    return records, counts


def _score(number: int, items: list[Item], said: list[Reply]) -> list[Record]:
    """Records of the open prompts, the choices and perhaps the caption of one clip."""
    records = []

    def add(form: str, group: str, score: float, *, prompt: str, target: str, reply: str) -> None:
        doc_id, clip = f"{number}-{len(records)}", str(number)
        records.append(Record(form, doc_id, group, score, None, reply, target, prompt=prompt, source=clip))

    for item, words, letter in zip(items, said, said[len(items) :], strict=False):
        q = item.question
        for form, truth, reply, right in (
            ("open", q.answer, words.text, open_correct(words.text, q.answer)),
            ("choice", item.letter, letter.text, choice_correct(letter.text, item.letter)),
            ("likelihood", q.answer, words.likeliest, words.likeliest == q.answer),
        ):
            add(form, q.family, float(right), prompt=q.text, target=truth, reply=reply)
    for told in said[2 * len(items) :]:
        truth = caption(sample_clip(number))
        score = caption_f1(told.text, truth)
        add("caption", "caption", score, prompt=CAPTION_PROMPTS[0], target=truth, reply=told.text)
    return records


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weights of a checkpoint folder, as the header of a result names it."""
    return folder_hash(folder, "*.safetensors")


def run(
    settings: Sequence[str],
    *,
    model_path: Path,
    output: Path,
    questions: int = QUESTIONS,
    seed: int = SEED,
    captioned: int = CAPTIONED,
) -> dict[str, str]:
    """Leaves a folder of records in ``output`` for every setting; returns the reasons of those that could not run.

    Raises ValueError for a name that is no setting, before any work.
    """
    parsed = [parse_setting(name) for name in settings]
    items = make_exam(questions, seed=seed)
    weights, code = weights_hash(model_path), folder_hash(Path(aot.__file__).parent, "*.py")
    wanted = {}
    for setting in parsed:
        header = {
            "setting": setting.name, "aot": setting.config and setting.config.to_dict(), "weights": weights,
            "questions": len(items), "seed": seed, "captioned": captioned, "torch": torch.__version__,
        }  # fmt: skip
        folder = output / f"{setting.name.replace('/', '_')}-{seed}-{len(items)}"
        made = folder / "result.json"
        if not made.exists() or json.loads(made.read_text())["header"] != header:
            wanted[folder] = setting, header
    if not wanted:
        return {}
    files = clip_files(items, output / "clips")
    tokenizer, model, processor, _ = load_pretrained_model(
        str(model_path), None, "", device_map="auto", attn_implementation="sdpa"
    )
    refused, plan = _plan(model, [setting for setting, _ in wanted.values()])
    evaluator = Evaluator(model, tokenizer, FeatureCache(model, processor, files, plan))
    for folder, (setting, header) in wanted.items():
        if setting.name in refused:
            continue
        started = time.perf_counter()
        try:
            effective = evaluator.fitted(setting, sorted(files))
            cost = own_cost(model, evaluator.cache.clip(items[0].clip), effective)
            records, counts = run_exam(evaluator, items, effective, captioned=captioned, progress=_progress)
        except ValueError as error:
            refused[setting.name] = str(error)
            continue
        seconds = round(time.perf_counter() - started, 1)
        effective = effective.config and effective.config.to_dict()
        kept = Counts.mean(counts)
        extra = {"seconds": seconds, "effective": effective, "code": code, "cost": kept and {**kept, **cost}}
        extra["machine"] = f"{model.device.type}, {torch.get_num_threads()} thread(s)"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        write_records(folder / "questions.jsonl", records)
        write_json(folder / "result.json", {"header": header, **extra})  # last: it says that the records are there
        scores = {form: [r.score for r in records if r.task == form] for form in FORMS}
        shown = {f: round(100 * sum(s) / len(s), 1) for f, s in scores.items() if s}
        print(setting.name, shown, f"{seconds} s", flush=True)
    return refused


def _plan(model, settings: list[Setting]):
    """Reasons of the settings that the tower cannot serve, and what it must capture for the others."""
    refused, served, tower = {}, [], model.get_vision_tower()
    for setting in settings:
        try:
            shared_plan(tower, [setting.config])
            served.append(setting.config)
        except ValueError as error:
            refused[setting.name] = str(error)
    return refused, shared_plan(tower, served)


def exam_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names the model, the exam and the folder of its replies."""
    embedded = shipped("checkpoints/aot-tiny")
    path = "checkpoint folder (default: aot-tiny)"
    parser.add_argument("--model-path", type=Path, default=embedded, metavar="DIR", help=path)
    how_many = f"how many (default {QUESTIONS})"
    parser.add_argument("--questions", type=int, default=QUESTIONS, metavar="N", help=how_many)
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="the exam's first clip")


def add_options(parser: Parser) -> None:
    exam_arguments(parser)
    known = f"{KNOWN} (default: {' '.join(DEFAULT_SETTINGS)})"
    parser.add_argument("--settings", nargs="+", default=DEFAULT_SETTINGS, metavar="NAME", help=known)
    parser.add_argument("--captioned", type=int, default=CAPTIONED, help="clips whose captions are scored")
    parser.add_argument("--output", type=Path, default=Path("runs/exam"), help="folder of replies and clips")


def execute(options: argparse.Namespace) -> int:
    """Sits the exam; 0, 1 when a setting could not run, 2 for a name that is no setting."""
    named = ("settings", "model_path", "output", "questions", "seed", "captioned")
    try:
        refused = run(**{name: getattr(options, name) for name in named})
    except ValueError as error:
        print(f"aot exam: {error}", file=sys.stderr)
        return 2
    for name, reason in refused.items():
        print(f"{name} cannot run: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _progress(setting: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{setting}: clip {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


main = entry("exam")

if __name__ == "__main__":
    sys.exit(main())
