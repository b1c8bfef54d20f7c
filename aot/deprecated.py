"""Names of the last release that this one still takes, each with a DeprecationWarning. They go in the next release."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import AOTError

# settings of AOTConfig: old name -> new one
SETTINGS = {
    "schedule": "variant",
    "supplier_mass": "source_mass",
    "uniform_share": "uniform_marginal",
    "emission": "emit_anchors",
    "stop": "sinkhorn_stop",
    "hard_blend": "hard_assignment",
}
SCHEDULES = {"joint": "default", "cascade": "paper"}  # values of "schedule" -> values of "variant"
# names of the package `aot`: old name -> new one
NAMES = {"Kind": "TokenKind", "baselines": "methods"}
# arguments of `aot.register`: old name -> new one
REGISTER = {"needs": "requires", "inside": "in_llm"}

T = TypeVar("T")


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """The one warning; stacklevel as in `warnings.warn`, counted from here."""
    warnings.warn(f"{old} is now called {new}; the old name goes in the next release.", DeprecationWarning, stacklevel)


def current_settings(settings: Mapping[str, Any], *, stacklevel: int = 4) -> dict[str, Any]:
    """Settings under the names of this release; AOTError where one is given under both."""
    current = dict(settings)
    for old, new in SETTINGS.items():
        if old not in current:
            continue
        if new in current:
            raise AOTError(f"{old} is now called {new}, and both are given; leave {old} out.")
        warn_renamed(f"The setting {old}", new, stacklevel=stacklevel)
        value = current.pop(old)
        current[new] = SCHEDULES.get(value, value) if old == "schedule" and isinstance(value, str) else value
    return current


def takes_old_settings(config: type[T]) -> type[T]:
    """Class decorator: the constructor and attributes of a dataclass of settings know the old names too."""
    make = config.__init__

    @functools.wraps(make)
    def __init__(self: Any, *values: Any, **settings: Any) -> None:
        make(self, *values, **current_settings(settings))

    def __getattr__(self: Any, name: str) -> Any:  # asked for names that are not there alone
        if name not in SETTINGS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn_renamed(f"The setting {name}", SETTINGS[name])
        value = getattr(self, SETTINGS[name])
        return next(old for old, new in SCHEDULES.items() if new == value) if name == "schedule" else value

    config.__init__ = __init__  # type: ignore[method-assign]
    config.__getattr__ = __getattr__  # type: ignore[attr-defined]
    return config
