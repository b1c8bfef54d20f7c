"""Names of the last release that this one still takes, each with a DeprecationWarning. They go in the next release."""

import functools
import importlib
import sys
import warnings
from collections.abc import Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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

# modules that the page on adding a method named: old name -> new one
MODULES = {
    "aot.baselines": "aot.methods",
    "aot.baselines.budgets": "aot.methods.common",
    "aot.baselines.merging": "aot.methods.common",
    "aot.checks": "aot.validation",
    "aot.ranks": "aot.indexing",
    "aot.result": "aot.types",
    "aot.scores": "aot.ops.common",
    "aot.video": "aot.types",
}

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


class OldModules(MetaPathFinder, Loader):
    """Lets the modules of `MODULES` be imported: each holds what the new one does, old names of it included."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=name == "aot.baselines") if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warn_renamed(f"The module {spec.name}", MODULES[spec.name])
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = vars(importlib.import_module(MODULES[module.__name__]))
        vars(module).update({name: value for name, value in new.items() if not name.startswith("__")})
        if "TokenKind" in new:
            vars(module).update(Kind=new["TokenKind"], kept=new["Selection"].from_indices)


def find_old_modules() -> None:
    """Puts `OldModules` among the finders, once."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldModules())
