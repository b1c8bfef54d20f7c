"""Methods by name. A method is one function; `AOTConfig(method=name, options={...})` selects it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .deprecated import REGISTER, warn_renamed
from .errors import AOTError


@dataclass(frozen=True)
class Method:
    """A token reduction method.

    run: function (video: VideoTokens, config: AOTConfig) -> Selection
    options: names and default values of its own options; others are refused
    requires: which tower outputs it reads, out of "shallow", "deep" and the keys of `extras`
    check: optional function (options: dict) -> None that raises AOTError for a bad value
    in_llm: it acts inside the language model, which all tokens of the video enter
    """

    name: str
    run: Callable
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    check: Callable[[dict], None] | None = None
    in_llm: bool = False


METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    requires: tuple[str, ...] = (),
    check: Callable[[dict], None] | None = None,
    in_llm: bool = False,
    **renamed: Any,
) -> Callable:
    """Decorator that adds a function to the methods under `name`; arguments as in `Method`."""
    declared: dict[str, Any] = {"requires": tuple(requires), "in_llm": in_llm}
    for old, value in renamed.items():
        if old not in REGISTER:
            raise TypeError(f"register() got an unexpected keyword argument {old!r}")
        warn_renamed(f"The argument {old} of aot.register", REGISTER[old])
        declared[REGISTER[old]] = value

    def add(run: Callable) -> Callable:
        if name in METHODS:
            raise AOTError(f"A method named {name!r} is already registered; choose another name.")
        METHODS[name] = Method(name, run, dict(options or {}), check=check, **declared)
        return run

    return add


def get_method(name: str) -> Method:
    """The method called `name`; AOTError lists the known names when there is none."""
    if name not in METHODS:
        raise AOTError(f"Unknown method {name!r}; choose one of: {', '.join(method_names())}.")
    return METHODS[name]


def method_names() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(METHODS)


def resolve_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method with its defaults filled in; unknown ones raise AOTError."""
    method = get_method(name)
    unknown = sorted(set(options) - set(method.options))
    if unknown:
        known = ", ".join(sorted(method.options)) or "none"
        raise AOTError(f"Method {name!r} has no option {', '.join(unknown)}; its options are: {known}.")
    merged = {**method.options, **options}
    if method.check is not None:
        method.check(merged)
    return merged
