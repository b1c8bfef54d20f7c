"""Stands in for lmms-eval: its options, its files, and a wrapper that answers what the response store lacks.

Replies depend on the settings and the question alone. The task "pairs" has two groups of questions as MLVU has
kinds; a question of which the model's `broken` names the number fails; `pause` slows every question down.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import light  # noqa: F401

from llava.eval.records import Record
from llava.eval.store import ResponseStore, question_key

SIZE = 12


def reply(settings: dict, doc_id: int) -> str:
    chance = random.Random(f"{settings.get('retention')}-{doc_id}").random()
    return "A" if chance < 0.4 + 0.5 * float(settings["retention"]) else "B"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "model_args", "tasks", "output_path", "seed", "batch_size", "verbosity", "device"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--limit", type=int, default=SIZE)
    parser.add_argument("--log_samples", action="store_true")
    options = parser.parse_args()
    settings = dict(part.split("=", 1) for part in options.model_args.split(","))
    if settings.get("crash") == options.tasks:
        raise SystemExit("RuntimeError: the model broke")
    count = min(SIZE, options.limit)
    keys = {question_key(doc_id=i, retention=settings["retention"]): i for i in range(count)}
    broken = settings.get("broken", "").split("+")
    with ResponseStore(settings["store"]) as store:
        store.expect(count)
        for key, doc_id in keys.items():
            if store.get(key) is not None:
                continue
            time.sleep(float(settings.get("pause", 0)))
            failed = str(doc_id) in broken
            store.put(key, Record(
                task=options.tasks, doc_id=str(doc_id), reply=None if failed else reply(settings, doc_id),
                failure="the video is cut short" if failed else None,
                tokens={"visual": 10, "visual_before": 100}, seconds={"total": 0.5},
            ))  # fmt: skip
        records = {keys[key]: store.get(key) for key in keys}
    if settings.get("lose") == options.tasks:
        sys.exit(0)  # as lmms-eval does after an exception
    samples = []
    for doc_id in random.Random(time.time()).sample(range(count), count):  # ranks interleave them
        said = records[doc_id].reply or "A"  # a grader that guesses right
        value = {"pred_answer": said, "answer": "A", "task_type": "ego" if doc_id % 2 else "count"}
        samples.append(
            {"doc_id": doc_id, "target": "A\u2028or a\u0085", "filtered_resps": [said], "mlvu_percetion_score": value}
        )
    right = [s["mlvu_percetion_score"]["pred_answer"] == "A" for s in samples]
    folder = Path(options.output_path) / "model"
    folder.mkdir(parents=True)
    results = {
        "results": {options.tasks: {"alias": "x", "mlvu_percetion_score,none": 100 * sum(right) / count}},
        "n-samples": {options.tasks: {"original": SIZE, "effective": count}},
    }
    (folder / "now_results.json").write_text(json.dumps(results))
    lines = "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples)
    (folder / f"now_samples_{options.tasks}.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
