"""Runs tests of a copy of the tree in forked processes that have the heavy libraries loaded already."""

import ast
import functools
import gc
import hashlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, count
from pathlib import Path

from tests.mutation.operators import Mutant

HEAVY = (
    *("torch", "numpy", "pytest", "hypothesis", "ot", "PIL.Image", "yaml", "safetensors.torch", "tokenizers"),
    *("transformers.models.qwen2.modeling_qwen2", "transformers.models.siglip.modeling_siglip"),
    *("transformers.models.llama.configuration_llama", "transformers.generation.utils", "transformers.modeling_utils"),
)
# files that compare numbers come first: hundreds of quick tests of refusals enter the same functions
FIRST = ("tests/aot/test_reference_default.py", "tests/aot/test_pins.py", "tests/aot/test_golden.py")
ENOUGH = 30  # seconds of tests, as recorded, that a fault has to survive
SLOWEST = 120  # seconds of a core that the tests of one fault may take; an endless loop is found by it
IDLE = 10  # times as long by the clock, since other processes work too


@dataclass
class Tests:
    """What is known of the tests. files: digest of each file, and of each of its tests the seconds and functions."""

    path: Path
    files: dict[str, dict] = field(default_factory=dict)
    kills: Counter = field(default_factory=Counter)

    @classmethod
    def load(cls, path: Path) -> "Tests":
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def learn(self, tree: Path, file: str) -> None:
        """Records a file of tests, unless that was done and it is as it was."""
        digest = hashlib.sha256((tree / file).read_bytes()).hexdigest()
        if self.files.get(file, {}).get("digest") != digest:
            print("recording", file, flush=True)
            self.files[file] = {"digest": digest, "tests": record(tree, file)}
            self.path.write_text(json.dumps(self.files))

    def of(self, mutant: Mutant) -> list[list[str]]:
        """Node ids of the tests that enter the function, or the file where the fault is outside of functions.

        Two lists: those of the file that found most faults of this module, and the others; each the quickest first and
        of every file in turn, as many as take `ENOUGH` seconds.
        """
        found = []
        for file, known in self.files.items():
            entering = sorted((test["seconds"], name) for name, test in known["tests"].items() if _enters(test, mutant))
            found += [(file not in FIRST, place, seconds, file, name) for place, (seconds, name) in enumerate(entering)]
        found.sort()
        favourite = max((file for *_, file, _ in found), key=lambda file: self.kills[mutant.path, file], default="")
        lists = []
        for same in (True, False):
            tests = [(seconds, name) for *_, seconds, file, name in found if (file == favourite) == same]
            spent = accumulate(seconds for seconds, _ in tests)
            affordable = [so_far <= ENOUGH or place == 0 for place, so_far in enumerate(spent)]
            lists.append([name for (_, name), taken in zip(tests, affordable, strict=True) if taken])
        return lists

    def enters(self, file: str, mutant: Mutant) -> bool:
        """Does any test of a file enter the function?"""
        return any(_enters(test, mutant) for test in self.files[file]["tests"].values())

    def count(self, path: str, by: str | None) -> None:
        """Remembers which file of tests found a fault of a module."""
        self.kills[path, (by or "").split("::")[0]] += 1


def _enters(test: dict, mutant: Mutant) -> bool:
    functions = test["functions"].get(mutant.path, ())
    return bool(functions) if mutant.function in ("", *_classes(mutant)) else mutant.function in functions


def _classes(mutant: Mutant) -> tuple[str, ...]:
    """A name that begins with a capital is a class: its body runs when the file is imported."""
    last = mutant.function.rpartition(".")[2].lstrip("_")
    return (mutant.function,) if last[:1].isupper() else ()


def record(tree: Path, file: str) -> dict[str, dict]:
    """Of each test of a file: seconds, and by path the functions that it enters."""
    recorder = Recorder(tree)
    done, _ = _forked(tree, [file], recorder, lambda: recorder.found, seconds=1200)
    if not done:
        raise RuntimeError(f"{file} does not pass by itself, or takes too long; faults cannot be told from that.")
    return json.loads(done)


def run(tree: Path, names: list[str]) -> str | None:
    """The name of the test that fails, None when all pass."""
    if not names:
        return None
    chooser = Chooser(names)
    files = list(dict.fromkeys(name.split("::")[0] for name in names))
    done, in_time = _forked(tree, files, chooser, lambda: chooser.failed, seconds=SLOWEST)
    return json.loads(done) if done else "the process ended" if in_time else "time"


_stamps = count(int(time.time()))


def write(path: Path, source: str) -> None:
    """Writes a module at a time that no other version of it had, so that what Python keeps compiled is not taken."""
    path.write_text(source)
    stamp = next(_stamps)
    os.utime(path, (stamp, stamp))


def _forked(tree: Path, files: list[str], plugin, result, *, seconds: float) -> tuple[str, bool]:
    """What result() gives after pytest ran on files in a child, as JSON, "" when it ended before; was it in time?

    seconds: of a core.
    """
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # what is loaded here is not looked through in each child
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), -1))  # a child begins at 0
            _in_child(tree, files, plugin)
            with os.fdopen(writing, "w") as pipe:
                json.dump(result(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    text, end, in_time = b"", time.monotonic() + IDLE * seconds, True
    while True:
        ready, _, _ = select.select([reading], [], [], max(0, end - time.monotonic()))
        if not ready:
            in_time = False
            os.kill(child, signal.SIGKILL)
            break
        if not (piece := os.read(reading, 2**16)):
            break
        text += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return text.decode(), in_time and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)


def _in_child(tree: Path, files: list[str], plugin) -> None:
    import hypothesis
    import pytest

    for name in [name for name in sys.modules if name.split(".")[0] in ("aot", "llava", "tests")]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[:] = [str(tree)] + [place for place in sys.path if Path(place or ".").resolve() != tree.parent]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("faults", phases=phases, database=None, derandomize=True, print_blob=False)
    hypothesis.settings.load_profile("faults")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    without = [
        word for name in ("cacheprovider", "unraisableexception", "threadexception") for word in ("-p", f"no:{name}")
    ]
    pytest.main(["-x", "-q", "-m", "not gpu", f"--rootdir={tree}", *without, *files], plugins=[plugin])


class Chooser:
    """A pytest plugin: runs the tests named, in the order named. failed: the first that fails."""

    def __init__(self, names: list[str]):
        self.place = {name: place for place, name in enumerate(names)}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and self.failed is None:
            self.failed = f"{report.nodeid} (import)"

    def pytest_internalerror(self, excrepr) -> None:
        self.failed = self.failed or "pytest itself"


class Recorder:
    """A pytest plugin: which functions of the tree each passing test enters, and its seconds."""

    def __init__(self, tree: Path):
        self.tree, self.names = f"{tree}/", {}
        self.found: dict[str, dict] = {}
        self.entered: set = set()

    def pytest_runtest_setup(self, item) -> None:
        for thing in gc.get_objects():  # what is remembered would hide a function from all tests but the first
            if isinstance(thing, functools._lru_cache_wrapper) and thing.__module__.split(".")[0] in ("aot", "llava"):
                thing.cache_clear()
        self.entered = set()
        self.start = time.process_time()
        sys.setprofile(self._enter)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" and report.passed:
            sys.setprofile(None)
            functions: dict[str, set] = {}
            for path, line in self.entered:
                name = path.removeprefix(self.tree)
                if not name.startswith("tests/"):
                    functions.setdefault(name, set()).update(self._functions(path)[line])
            functions_ = {name: sorted(names) for name, names in functions.items()}
            self.found[report.nodeid] = {"seconds": time.process_time() - self.start, "functions": functions_}

    def _enter(self, frame, event: str, argument) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.tree):
            self.entered.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    def _functions(self, path: str) -> dict[int, list[str]]:
        """By line: the functions that a frame which begins there is inside of, from the outermost."""
        if path not in self.names:
            source = Path(path).read_text()
            lines: dict[int, list[str]] = {line: [] for line in range(source.count("\n") + 2)}
            _fill(ast.parse(source), "", lines)
            self.names[path] = lines
        return self.names[path]


def _fill(node: ast.AST, outer: str, lines: dict[int, list[str]]) -> None:
    for child in ast.iter_child_nodes(node):
        name = outer
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{outer}.{child.name}".lstrip(".")
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            for line in range(first, child.end_lineno + 1):
                lines[line].append(name)
        _fill(child, name, lines)
