"""Methods by name. A method is one function; `AOTConfig(method=name, options={...})` selects it."""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, replace
from typing import Any

from .deprecated import renamed_keywords
from .errors import AOTError
from .validation import read_setting


@dataclass(frozen=True)
class Method:
    """A token reduction method.

    run: function (video: VideoTokens, config: AOTConfig) -> Selection
    options: names and default values of its own options; others are refused
    settings: what an option may be that was declared by `aot.validation.number_in`, `count_from` or `one_of`
    requires: which tower outputs it reads, out of "shallow", "deep" and the keys of `extras`
    check: optional function (options: dict) -> None that raises AOTError for any other bad value
    in_llm: it acts inside the language model, which all tokens of the video enter
    kind: "method", "floor" (a rule without an idea, which a method must beat) or "tuned" (a method under settings that
        were chosen on development seeds of the exam, where the method itself has the published ones)
    """

    name: str
    run: Callable
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Field] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    check: Callable[[dict], None] | None = None
    in_llm: bool = False
    kind: str = "method"


METHODS: dict[str, Method] = {}


@renamed_keywords(needs="requires", inside="in_llm")
def register(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    requires: tuple[str, ...] = (),
    check: Callable[[dict], None] | None = None,
    in_llm: bool = False,
    floor: bool = False,
    tuned: Mapping[str, Any] | None = None,
) -> Callable:
    """Decorator that adds a function to the methods under `name`; arguments as in `Method`.

    options: of each the default alone, or a setting that says what else it may be. floor: it is a floor. tuned: options
    that are the defaults of a second entry, `name` + "+tuned".
    """
    if isinstance(requires, str):
        raise AOTError(f"requires is {requires!r}; give a tuple of names, such as ({requires!r},).")
    if unknown := sorted({*(tuned or {})} - {*(options or {})}):
        raise AOTError(f"tuned names {', '.join(unknown)}, which is no option of method {name!r}; add it to options.")
    settings = {option: value for option, value in (options or {}).items() if isinstance(value, Field)}
    given = {**(options or {}), **{option: setting.default for option, setting in settings.items()}}

    def add(run: Callable) -> Callable:
        method = Method(name, run, given, settings, tuple(requires), check, in_llm, "floor" if floor else "method")
        entries = [method]
        if tuned:
            entries.append(replace(method, name=f"{name}+tuned", options={**given, **tuned}, kind="tuned"))
        for entry in entries:
            if entry.name in METHODS:
                raise AOTError(f"A method named {entry.name!r} is already registered; choose another name.")
            METHODS[entry.name] = entry
        return run

    return add


def get_method(name: str) -> Method:
    """The method called `name`; AOTError lists the known names when there is none."""
    if not isinstance(name, str) or name not in METHODS:
        raise AOTError(f"Unknown method {name!r}; choose one of: {', '.join(method_names())}.")
    return METHODS[name]


def method_names(kind: str | None = None) -> list[str]:
    """Names of all registered methods, or of those of one kind (see `Method`), sorted."""
    return sorted(name for name, method in METHODS.items() if kind in (None, method.kind))


def resolve_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method with its defaults filled in; unknown ones raise AOTError."""
    method = get_method(name)
    unknown = sorted(str(option) for option in options if option not in method.options)
    if unknown:
        known = ", ".join(sorted(method.options)) or "none"
        raise AOTError(f"Method {name!r} has no option {', '.join(unknown)}; its options are: {known}.")
    merged = {**method.options, **options}
    for option, setting in method.settings.items():
        merged[option] = read_setting(f"option {option}", merged[option], setting)
    if method.check is not None:
        method.check(merged)
    return merged
