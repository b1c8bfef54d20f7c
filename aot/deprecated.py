"""Names of the last release that this one still takes, each with a DeprecationWarning. They go in the next release."""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import ModuleType
from typing import Any, TypeVar, cast

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

# modules that the page on adding a method named: old name -> new one
MODULES = {
    "aot.baselines": "aot.methods",
    "aot.baselines.budgets": "aot.budget",
    "aot.baselines.merging": "aot.methods.common",
    "aot.checks": "aot.validation",
    "aot.indexing": "aot.ops.common",
    "aot.pooling": "aot.spatial_pooling",
    "aot.ranks": "aot.ops.common",
    "aot.result": "aot.types",
    "aot.scores": "aot.ops.common",
    "aot.video": "aot.types",
}

T = TypeVar("T")
F = TypeVar("F", bound=Callable)


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


def old_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module that knows old names too. names: old name -> new one, dotted inside a class."""

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{module}.{names[name]}")
        return attrgetter(names[name])(sys.modules[module])

    return __getattr__


class RenamedModules(MetaPathFinder, Loader):
    """Imports modules under their old names as the ones that took their place. modules: old name -> new one."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if (new := self._new_name(name)) is None:
            return None
        warn_renamed(f"The module {name}", new)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._new_name(module.__name__) or "")

    def _new_name(self, name: str) -> str | None:
        """Also of a module inside a package that has another name now."""
        known = [old for old in self.modules if name == old or name.startswith(f"{old}.")]
        old = max(known, key=len, default="")
        return self.modules[old] + name[len(old) :] if old else None


def find_modules(modules: Mapping[str, str]) -> None:
    """Lets modules be imported under their old names."""
    sys.meta_path.insert(0, RenamedModules(modules))


def renamed_keywords(**names: str) -> Callable[[F], F]:
    """Decorator: a function takes keywords under their old names too. names: old name -> new one."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            for old in names.keys() & named.keys():
                if names[old] in named:
                    raise AOTError(f"{old} and {names[old]} are given, which are one; leave {old} out.")
                warn_renamed(f"{old}=", f"{names[old]}=")
                named[names[old]] = named.pop(old)
            return function(*values, **named)

        return cast(F, call)

    return decorate


def renamed_attribute(old: str, new: str) -> property:
    """An attribute under its old name."""

    def get(self: Any) -> Any:
        warn_renamed(f".{old}", f".{new}")
        return getattr(self, new)

    def set_(self: Any, value: Any) -> None:
        warn_renamed(f".{old}", f".{new}")
        setattr(self, new, value)

    return property(get, set_)
