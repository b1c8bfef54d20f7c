"""Puts small faults into the method and the model, one at a time, and runs the tests that touch the faulty function.

    python -m tests.mutation --state /tmp/mutation --count 300

A test that no fault makes fail is no test. First every test runs once and the functions that it enters are recorded.
Then faults are drawn, spread over files with thrice the weight on the default method, and for each a forked process,
which has torch and transformers loaded, imports a copy of the tree with the fault and runs the tests that enter the
function, the quickest first, until one fails. The state folder holds the copy, what was recorded, one line a fault and
the table; the same command goes on where it ended. Faults that nobody can see stand in equivalent.yaml with the reason.
"""

import argparse
import json
import random
import shutil
import time
from collections import defaultdict
from pathlib import Path

import yaml

from tests.mutation.operators import Mutant, mutants, mutated
from tests.mutation.runner import Tests, run, write

ROOT = Path(__file__).parents[2]
TREES = ("aot", "llava/model")
LEFT_OUT = ("triton", "visualize", "vllm", "modes.py", "warm_up.py")  # what needs a GPU or draws pictures
SUITES = ("tests/aot", "tests/ops", "tests/llava", "tests/apply")
SLOW = ("test_devices.py", "test_tower_modes.py", "test_kernels.py")  # they compile, or go through published sizes
DEFAULT_TESTS = "tests/aot/test_reference_default.py"  # what these enter is the default method


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, required=True, help="folder of the copy, the records and the table")
    parser.add_argument("--count", type=int, default=150, help="faults to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose file, function and change hold this text")
    parser.add_argument("--default", action="store_true", help="faults in functions of the default method alone")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    options = parser.parse_args()
    tree = options.state.resolve() / "tree"
    copy_tree(tree)
    tests = Tests.load(options.state / "tests.json")
    for path in sorted(path for suite in SUITES for path in (tree / suite).rglob("test_*.py")):
        if path.name not in SLOW:
            tests.learn(tree, str(path.relative_to(tree)))
    log = options.state / "log.jsonl"
    results = {line["path"] + line["key"]: line for line in map(json.loads, log.open())} if log.exists() else {}
    for known in results.values():
        tests.count(known["path"], known["by"])
    equivalent = yaml.safe_load((Path(__file__).parent / "equivalent.yaml").read_text()) or {}
    for mutant in draw(tests, options):
        known = results.get(mutant.path + mutant.key)
        if mutant.key in equivalent or known and (known["by"] or not options.again):
            continue
        source, start = (ROOT / mutant.path).read_text(), time.monotonic()
        write(tree / mutant.path, mutated(source, mutant.number))
        first, others = tests.of(mutant)
        by = run(tree, first) or run(tree, others)
        write(tree / mutant.path, source)
        tests.count(mutant.path, by)
        seconds = time.monotonic() - start
        line = {"path": mutant.path, "key": mutant.key, "line": mutant.line, "by": by, "seconds": round(seconds, 1)}
        results[mutant.path + mutant.key] = line
        with log.open("a") as file:
            print(json.dumps(line, ensure_ascii=False), file=file)
        print("killed  " if by else "SURVIVED", mutant.path, mutant.line, mutant.key, f"{seconds:.1f} s", flush=True)
    report(options.state / "table.md", draw(tests, options), results, equivalent, tests)


def copy_tree(tree: Path) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", ".*")
    for part in ("aot", "llava", "tests", "docs", "lmms_eval_tasks", "benchmarks"):
        shutil.copytree(ROOT / part, tree / part, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tree)


def draw(tests: Tests, options: argparse.Namespace) -> list[Mutant]:
    """The first `count` faults of a seeded order: files take turns, and the default method's have three in each."""
    rows = defaultdict(list)
    for part in TREES:
        for path in sorted((ROOT / part).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not set(LEFT_OUT) & set(path.parts):
                for mutant in mutants(name, path.read_text()):
                    ours = tests.enters(DEFAULT_TESTS, mutant)
                    if options.only in f"{name} {mutant.key}" and (ours or not options.default):
                        rows[name, ours].append(mutant)
    generator = random.Random(options.seed)
    turns = []
    for (_, ours), row in rows.items():
        generator.shuffle(row)
        turns += [(place // 3 if ours else place, generator.random(), mutant) for place, mutant in enumerate(row)]
    return [mutant for *_, mutant in sorted(turns, key=lambda turn: turn[:2])][: options.count]


def report(path: Path, drawn: list[Mutant], results: dict, equivalent: dict, tests: Tests) -> None:
    """Writes the table and prints the sums."""
    rows, sums = [], defaultdict(lambda: [0, 0, 0])
    for mutant in drawn:
        by = None if mutant.key in equivalent else results[mutant.path + mutant.key]["by"]
        state = "equivalent" if mutant.key in equivalent else f"killed by {by}" if by else "**survived**"
        rows.append(f"| {mutant.path}:{mutant.line} | `{mutant.key}` | {state} |".replace("`|`", "` `"))
        part = "default" if tests.enters(DEFAULT_TESTS, mutant) else mutant.path.split("/")[0]
        sums[part][2 if mutant.key in equivalent else 0 if by else 1] += 1
    path.write_text("\n".join(["| place | fault | |", "|---|---|---|", *rows, ""]))
    for part, (killed, survived, same) in sorted(sums.items()):
        print(f"{part}: {killed} killed, {survived} survived, {same} equivalent")
    print("table:", path)


if __name__ == "__main__":
    main()
