"""A sweep as a person writes it: models × settings × tasks in one YAML file, checked before any work."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from aot import AOTConfig
from aot.errors import AOTError
from llava.utils import shipped

if TYPE_CHECKING:
    from llava.eval.exam.settings import ExamSweep

SWEEPS = Path(__file__).parent / "sweeps"  # those that come with the project, by name
PUBLISHED = Path(__file__).parent / "tables" / "published.yaml"
_MOST_NODES = 100_000  # of a YAML file with its aliases written out
_OURS = ("pretrained", "store")  # arguments that follow from the sweep itself


class SweepError(ValueError):
    """Something the person can put right; the text is one sentence that says how."""


@dataclass(frozen=True)
class Model:
    """A checkpoint and how lmms-eval runs it.

    id: lmms-eval's name of the wrapper; those that end in _aot take the method's settings and a response store.
    args: further --model_args. published: the model's name among the published values.
    """

    name: str
    id: str
    checkpoint: str
    args: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None

    @property
    def keeps_answers(self) -> bool:
        """Whether the wrapper writes into a response store."""
        return self.id.endswith("_aot")


@dataclass(frozen=True)
class Setting:
    """How the visual tokens are reduced.

    aot: fields of AOTConfig, with `preset` if wanted; None leaves every token and makes this the reference that
    the others are relative to. args: changes to the model's --model_args. per_task: further fields for single
    tasks, by name. published: section and row of the published values.
    """

    name: str
    aot: Mapping[str, Any] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: tuple[str, ...] | None = None

    def aot_on(self, task: str) -> dict[str, Any] | None:
        """The fields in force on a task."""
        return None if self.aot is None else {**self.aot, **self.per_task.get(task, {})}


@dataclass(frozen=True)
class Task:
    """A task or group of lmms-eval. published: its column among the published values."""

    name: str
    published: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What is run (every model under every setting on every task) and which table it makes.

    note: a sentence for the title of the report, such as what stands in for what. limit: questions a task, None
    for all. include_path: a folder of further tasks.
    """

    name: str
    title: str
    models: tuple[Model, ...]
    settings: tuple[Setting, ...]
    tasks: tuple[Task, ...]
    table: str | None = None
    note: str | None = None
    seed: int = 0
    limit: int | None = None
    include_path: str | None = None


def load_sweep(name: str | Path) -> "Sweep | ExamSweep":
    """The sweep of a YAML file, or one that comes with the project, by its name; with a key `exam` one over the
    embedded model's exam, otherwise over tasks of lmms-eval. Raises SweepError.
    """
    path = Path(name)
    ours = not path.suffix and not path.is_file()
    if ours:
        path = SWEEPS / f"{name}.yaml"
        if not path.is_file():
            raise SweepError(f"There is no sweep {str(name)!r}; give a YAML file or one of: {known_sweeps()}.")
    values = read_yaml(path)
    if isinstance(values, Mapping) and "exam" in values:
        from llava.eval.exam.settings import exam_sweep_from  # loads the method's code

        exam = exam_sweep_from({"name": path.stem, **values})
        return replace(exam, checkpoint=_locate(exam.checkpoint)) if ours else exam
    sweep = sweep_from(values, default_name=path.stem)
    if not ours:
        return sweep
    # the project's own files are named by where they are, whatever the working folder
    models = tuple(replace(model, checkpoint=_locate(model.checkpoint)) for model in sweep.models)
    return replace(sweep, models=models, include_path=sweep.include_path and _locate(sweep.include_path))


def read_yaml(path: Path) -> Any:
    """The values of a YAML file. Raises SweepError.

    Aliases of aliases grow without bound when they are written out, so they are counted before anything is made.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        if root is not None and _written_out(root, {}) > _MOST_NODES:
            raise SweepError(f"The aliases in the sweep {path} stand for too many values; write out what they mean.")
        return None if root is None else loader.construct_document(root)
    except SweepError:
        raise
    except OSError as error:
        raise SweepError(f"The sweep {path} cannot be read ({error.strerror}); check the path.") from error
    except RecursionError as error:
        raise SweepError(f"The sweep {path} is nested too deeply; write it with fewer levels.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, no such date, too long a number
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise SweepError(f"The sweep {path} is no valid YAML{line}; correct it there.") from error


def _locate(path: str) -> str:
    return str(shipped(path) or path)


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """How many nodes a node stands for with its aliases written out; infinite where one holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted: whoever meets it before is inside it
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def known_sweeps() -> str:
    """The names of the sweeps that come with the project, as one text."""
    return ", ".join(sorted(path.stem for path in SWEEPS.glob("*.yaml")))


def sweep_from(data: Any, *, default_name: str = "sweep") -> Sweep:
    """A sweep from plain values. Raises SweepError in one sentence for anything unknown or missing."""
    values = {"name": default_name, **_mapping(data, "the sweep")}
    values.setdefault("title", values["name"])
    for key, kind, what in (("models", Model, "model"), ("settings", Setting, "setting"), ("tasks", Task, "task")):
        rows = values.get(key)
        if not isinstance(rows, (list, tuple)) or not rows:
            raise SweepError(f"The sweep needs a list of {key} with at least one {what}.")
        rows = [{"name": row} if isinstance(row, str) and kind is Task else row for row in rows]
        values[key] = tuple(build(kind, row, f"{what} {number}") for number, row in enumerate(rows, 1))
    sweep = build(Sweep, values, "the sweep")
    _check(sweep)
    return sweep


def build(kind: type, data: Any, where: str):
    """An instance of a dataclass from a mapping whose keys must be its fields, with texts where it has texts."""
    values = _mapping(data, where)
    if isinstance(values.get("name"), str) and kind is not Sweep:
        where = f"{where} ({values['name']})"
    hints = get_type_hints(kind)
    unknown = [str(key) for key in values if key not in hints]
    if unknown:
        raise SweepError(f"Unknown key {', '.join(unknown)} in {where}; known are: {', '.join(hints)}.")
    for key, hint in hints.items():
        value = values.get(key)
        if hint is str and (not isinstance(value, str) or not value):
            raise SweepError(f"{where[0].upper()}{where[1:]} needs a text for {key}.")
        if hint == str | None and not isinstance(value, str | None):
            raise SweepError(f"{key} of {where} is {reprlib.repr(value)}; write it as text, in quotes.")
        if key in ("args", "per_task", "aot"):
            if value is None:
                values.pop(key, None)
            else:
                values[key] = _mapping(value, f"{key} of {where}")
                _check_plain(values[key], f"{key} of {where}")
    for task, changes in values.get("per_task", {}).items():
        _mapping(changes, f"per_task of {where} for {task}")
    if kind is Setting and values.get("published") is not None:
        place = values["published"]
        if not isinstance(place, list | tuple) or [type(name) for name in place] != [str, str]:
            raise SweepError(f"published of {where} is {reprlib.repr(place)}; write a section and a row as text.")
        values["published"] = tuple(place)
    return kind(**values)


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise SweepError(
            f"{where[0].upper()}{where[1:]} must be a mapping of names to values, not {reprlib.repr(data)}."
        )
    return dict(data)


def _check_plain(value: Any, where: str) -> None:
    """SweepError for what JSON, in which results are filed, cannot hold."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise SweepError(f"{key!r} in {where} is no name; put it in quotes.")
            _check_plain(part, where)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check_plain(part, where)
    elif not isinstance(value, (str, bool, int, float, type(None))) or value != value or value in (math.inf, -math.inf):
        raise SweepError(f"{reprlib.repr(value)} in {where} is no text and no number; put it in quotes.")


def check_count(key: str, value: Any, low: int) -> None:
    """SweepError unless it is a whole number of at least low."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SweepError(f"{key} is {reprlib.repr(value)}; use a whole number of {low} or more.")


def _check_name(name: str, where: str) -> None:
    """SweepError for a name that could not be that of a folder or file below the output folder."""
    if not name.isprintable() or "/" in name or "\\" in name or name.startswith(".") or len(name.encode()) > 100:
        raise SweepError(
            f"The name of {where} is {reprlib.repr(name)}; it names a folder or file of the results, so use at most "
            "100 letters, digits, spaces, dashes and the like, and no slash or leading dot."
        )


def _check(sweep: Sweep) -> None:
    """What the fields alone do not say."""
    _check_name(sweep.name, "the sweep")
    for task in sweep.tasks:
        _check_name(task.name, "a task")
    for path in (sweep.include_path, *(model.checkpoint for model in sweep.models)):
        if path is not None and (not path.isprintable() or len(path) > 1000):
            raise SweepError(f"{reprlib.repr(path)} is no path of a folder; correct it.")
    for row in (*sweep.models, *sweep.settings):
        stray = [name for name in _OURS if name in row.args]
        if stray:
            raise SweepError(f"args of {row.name!r} name {stray[0]}, which follows from the sweep; leave it out.")
    for what, rows in (("model", sweep.models), ("setting", sweep.settings), ("task", sweep.tasks)):
        names = [row.name for row in rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SweepError(f"Two {what}s are named {twice[0]!r}; give each a name of its own.")
    check_count("seed", sweep.seed, 0)
    if sweep.limit is not None:
        check_count("limit", sweep.limit, 1)
    tasks = {task.name for task in sweep.tasks}
    for setting in sweep.settings:
        stray = sorted(set(setting.per_task) - tasks)
        if stray:
            raise SweepError(
                f"Setting {setting.name!r} names {stray[0]!r} under per_task, which is no task of the sweep."
            )
        for task in sweep.tasks:
            effective(setting, task)
        for model in sweep.models:
            if setting.aot is not None and not model.keeps_answers:
                raise SweepError(
                    f"Model {model.name!r} runs as {model.id}, which cannot compress; "
                    f"use {model.id}_aot for {setting.name!r}."
                )


def effective(setting: Setting, task: Task) -> AOTConfig | None:
    """The whole configuration of a setting on a task. Raises SweepError where AOTConfig refuses it."""
    values = setting.aot_on(task.name)
    if values is None:
        return None
    try:
        return AOTConfig.preset(values.pop("preset", "default"), **values)
    except AOTError as error:
        raise SweepError(f"Setting {setting.name!r}: {_short(error)}") from error
    except TypeError as error:
        raise SweepError(f"Setting {setting.name!r} has a value of the wrong kind ({_short(error)}).") from error


def _short(error: Exception) -> str:
    """The text of an error, cut where it quotes a value at length."""
    text = str(error)
    return text if len(text) <= 500 else f"{text[:500]}…"


@lru_cache
def published() -> dict[str, Any]:
    """Accuracies as their authors print them: `sources`, and under `models` the sections and rows of each model."""
    return read_yaml(PUBLISHED)


def published_row(model: Model, setting: Setting) -> dict[str, Any] | None:
    """The published values of a setting, by benchmark, with `avg`, `relative` and `source`; None when it names none.

    Raises SweepError for a model, section or row that is not there.
    """
    if model.published is None or setting.published is None:
        return None
    place: Any = published()["models"]
    for name in (model.published, "sections", *setting.published):
        if name not in place:
            known = ", ".join(place)
            raise SweepError(f"Setting {setting.name!r}: there is no published {name!r}; known are: {known}.")
        place = place[name]
    return place


def check_published(sweep: Sweep) -> None:
    """Raises SweepError when the sweep names published values that are not there."""
    for model in sweep.models:
        for setting in sweep.settings:
            published_row(model, setting)
