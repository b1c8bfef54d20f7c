"""Sits the held-out exam with a model under several settings.

Each setting leaves a folder with `questions.jsonl`, a record of every reply, and `result.json`, which says what it was
made with and what the reduction cost. What is there is not made again, and what a kill left half done goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import aot
from aot_tiny.worlds import WORLDS, World, world_named
from llava.eval.exam.compress_clip import Counts, compress_clip, fit_anchors, own_cost
from llava.eval.exam.feature_cache import FeatureCache, shared_plan
from llava.eval.exam.query import Query, Reply, generate_plain, query
from llava.eval.exam.questions import FORMS, Item, clip_files, make_exam
from llava.eval.exam.settings import ExamSetting, ExamSweep, parse_setting
from llava.eval.jsonl import write_json
from llava.eval.plan import read_result
from llava.eval.progress import QuestionProgress
from llava.eval.provenance import folder_hash, processor
from llava.eval.records import Record, write_records
from llava.eval.store import InUseError, ResponseStore, locked, question_key
from llava.eval.sweep import SweepError
from llava.model.builder import load_pretrained_model
from llava.video_cache import VideoCache

FITTED = 8  # clips on which a preset's num_anchors is found


def ask(
    model, tokenizer, cache: FeatureCache, number: int, asked: Sequence[Query], setting: ExamSetting
) -> tuple[list[Reply], Counts | None]:
    """Replies about a clip, and the tokens that they were made from (None for all)."""
    video = cache.under(setting, number)
    if setting.inside:
        model.config.aot = setting.config.to_dict()
        replies = generate_plain(model, tokenizer, video, asked)
        (inside,), (entered,) = model.last_pruning, model.last_compression  # of the last prompt
        return replies, Counts(inside.layer_average * inside.visual, entered.num_newlines, inside.visual)
    tokens, counts = compress_clip(model, video, setting, seed=number)
    if counts is not None:
        counts = replace(counts, tower_share=video.flops.spent / video.flops.whole)
    return query(model, tokenizer, tokens, asked), counts


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weights of a checkpoint folder, as the header of a result names it."""
    return folder_hash(folder, "*.safetensors")


def run_exam_sweep(
    sweep: ExamSweep,
    settings: Sequence[str],
    output: Path,
    *,
    open_cache: Callable[..., VideoCache] | None = None,
) -> dict[str, str]:
    """Leaves a folder of records in `output` for every setting; returns the reasons of those that could not run.

    open_cache: an `encoder_cache` of encoded clips, given what it depends on.
    Raises ValueError for a setting of the sweep's own that is none, and SweepError for a world or checkpoint that is
    not there, before any work.
    """
    # 1. the settings that are not there yet
    checkpoint, world = Path(sweep.checkpoint), world_named(sweep.world_name)
    if not checkpoint.is_dir():
        raise SweepError(f"There is no checkpoint in {checkpoint}; give its folder by --model-path.")
    items = make_exam(sweep.questions, seed=sweep.seed, world=world)
    wanted, refused = _missing(sweep, settings, output, len(items))
    if not wanted:
        return refused
    # 2. the clips, the model, and what its tower must capture for all of the settings
    drawn_by = folder_hash(Path(world.questions.__file__).parent, "*.py")[:12]  # other code, other clips
    files = clip_files(items, output / "clips" / f"{sweep.world_name}-{drawn_by}", world=world)
    frames = {number: world.frames(world.sample_clip(number)) for number in files}
    bits = {f"load_{sweep.quantization}": True} if sweep.quantization else {}
    tokenizer, model, processor, _ = load_pretrained_model(
        str(checkpoint), None, "", device_map="auto", attn_implementation="sdpa", tower_dtype=sweep.tower_dtype, **bits
    )
    tower, served = model.get_vision_tower(), []
    for setting, _ in wanted.values():
        try:
            shared_plan(tower, [setting.config])
            served.append(setting.config)
        except ValueError as error:
            refused[setting.name] = str(error)
    dtypes = {"dtype": str(model.dtype), "tower_dtype": sweep.tower_dtype}
    disk = open_cache and open_cache(str(checkpoint), device=model.device.type, **dtypes)
    cache = FeatureCache(model, processor, files, shared_plan(tower, served), frames=frames, disk=disk)
    # 3. the exam under each
    code = folder_hash(Path(aot.__file__).parent, "*.py")
    for folder, (setting, header) in wanted.items():
        if setting.name not in refused:
            try:
                with locked(folder):
                    _sit(model, tokenizer, cache, items, setting, folder, header, code, world)
            except InUseError:
                print(f"{setting.name}: another process is at it", file=sys.stderr)
            except ValueError as error:
                refused[setting.name] = str(error)
    return refused


def _missing(
    sweep: ExamSweep, settings: Sequence[str], output: Path, count: int
) -> tuple[dict[Path, tuple[ExamSetting, dict]], dict[str, str]]:
    """(setting and header by folder, of those that have no result of `count` questions there; why others are refused).

    Raises ValueError for a setting of the sweep's own that is none.
    """
    weights, wanted, refused = weights_hash(Path(sweep.checkpoint)), {}, {}
    for name in settings:
        try:
            setting = parse_setting(name)
        except ValueError as error:
            if name in sweep.settings:
                raise
            refused[name] = str(error)
            continue
        header = {
            "setting": setting.name, "aot": setting.config and setting.config.to_dict(), "weights": weights,
            "questions": count, "seed": sweep.seed, "captioned": sweep.captioned, "torch": torch.__version__,
            **sweep.header,
        }  # fmt: skip
        ending = "".join(f"-{name}" for name in sweep.header.values())
        folder = output / f"{setting.name.replace('/', '_')}-{sweep.seed}-{count}{ending}"
        if (read_result(folder) or {}).get("header") != header:
            wanted[folder] = setting, header
    return wanted, refused


def _sit(
    model, tokenizer, cache, items: list[Item], setting: ExamSetting, folder: Path, header: dict, code: str, world
):
    """One setting: its records, what it cost, and last the result that says that they are there."""
    started, numbers = time.perf_counter(), sorted({item.clip for item in items})
    effective = fit_anchors(model, [cache.under(setting, number) for number in numbers[:FITTED]], setting)
    cost = own_cost(model, cache.under(effective, items[0].clip), effective)
    with ResponseStore(folder / "store") as store, QuestionProgress() as progress:
        records = run_exam(
            model, tokenizer, cache, items, effective, captioned=header["captioned"], world=world, store=store,
            identity={**header, "code": code}, progress=progress,
        )  # fmt: skip
    seconds = round(time.perf_counter() - started, 1)
    counted = list({r.source: r.tokens for r in records if r.tokens}.values())
    fields = {"tokens": "visual", "newlines": "newlines", "before": "visual_before", "tower_share": "tower_share"}
    kept = {name: fmean(tokens[field] for tokens in counted) for name, field in fields.items()} if counted else None
    chip = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else processor()
    (folder / "result.json").unlink(missing_ok=True)
    write_records(folder / "questions.jsonl", records)
    result = {
        "header": header,
        "seconds": seconds,
        "effective": effective.config and effective.config.to_dict(),
        "code": code,
        "cost": kept and {**kept, **cost},
        "machine": f"{chip}, {model.device.type}, {torch.get_num_threads()} thread(s)",
    }
    write_json(folder / "result.json", result)
    scores = {form: [r.score for r in records if r.task == form] for form in FORMS}
    shown = {form: round(100 * fmean(values), 1) for form, values in scores.items() if values}
    print(setting.name, shown, f"{seconds} s", flush=True)


def run_exam(
    model,
    tokenizer,
    cache: FeatureCache,
    items: list[Item],
    setting: ExamSetting,
    *,
    captioned: int,
    world: World = WORLDS["shapes"],
    store: ResponseStore | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: QuestionProgress | None = None,
) -> list[Record]:
    """Records of every clip of the exam, clip by clip.

    captioned: clips that are described too. store: keeps what is asked; a clip that it holds is not asked again.
    identity: what the replies depend on.
    """
    records, store = [], store or ResponseStore()
    numbers = sorted({item.clip for item in items})
    for n, number in enumerate(numbers):
        mine = [item for item in items if item.clip == number]
        caption = [Query(world.questions.CAPTION_PROMPTS[0], 120)] if n < captioned else []
        keys = [question_key(**identity or {}, clip=number, n=i) for i in range(3 * len(mine) + len(caption))]
        found = [record for key in keys if (record := store.get(key)) is not None]
        if len(found) < len(keys):
            asked = [Query(item.question.open_prompt(), 8, item.options) for item in mine]
            asked += [Query(item.choice_prompt, 8, expected=tuple(item.question.letters())) for item in mine]
            said, counts = ask(model, tokenizer, cache, number, asked + caption, setting)
            found = _score(number, mine, said, {} if counts is None else asdict(counts), world)
            for key, record in zip(keys, found, strict=True):
                store.put(key, record)
        records += found
        if progress:
            progress.show(setting.name, len(records), 3 * len(items) + min(captioned, len(numbers)))
    return records


def _score(number: int, items: list[Item], said: list[Reply], tokens: dict, world: World) -> list[Record]:
    """Records of the open prompts, the choices and perhaps the caption of one clip."""
    records: list[Record] = []
    questions, clip = world.questions, world.sample_clip(number)

    def add(form: str, group: str, score: float, *, prompt: str, target: str, reply: str, **details: float) -> None:
        about = {"source": str(number), "tokens": tokens, "strata": world.strata(clip), "details": details}
        doc_id = f"{number}-{len(records)}"
        records.append(Record(form, doc_id, group, score, None, reply, target, prompt=prompt, **about))

    for item, words, letter in zip(items, said, said[len(items) :], strict=False):
        q = item.question
        for form, truth, reply, score in (
            ("open", q.answer, words.text, world.score_open(words.text, q)),
            ("choice", item.letter, letter.text, float(questions.choice_correct(letter.text, item.letter))),
            ("likelihood", q.answer, words.likeliest, float(words.likeliest == q.answer)),
        ):
            details = world.details(reply, q) if form == "open" else {}
            add(form, q.family, score, prompt=q.text, target=truth, reply=reply, **details)
    for told in said[2 * len(items) :]:
        truth = questions.caption(clip)
        score = questions.caption_f1(told.text, truth)
        add("caption", "caption", score, prompt=questions.CAPTION_PROMPTS[0], target=truth, reply=told.text)
    return records
