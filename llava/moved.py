"""Names of the last release: they work until the next one and say what took their place."""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MODULES = {
    "llava.collector": "llava.utils",
    "llava.shipped": "llava.utils",
    "llava.serve.chat": "llava.chat.chat",
    "llava.serve.clip": "llava.chat.clip",
    "llava.serve.demo": "llava.chat.demo",
    "llava.serve.encoding": "llava.serve.encoder_pool",
    "llava.serve.family": "llava.chat.model_defaults",
    "llava.serve.memory": "llava.model.timing",
    "llava.serve.options": "llava.chat.options",
    "llava.serve.report": "llava.chat.answer_cost",
    "llava.serve.scratch": "llava.utils",
    "llava.serve.session": "llava.chat.session",
    "llava.serve.shared": "llava.serve.encoder_pool",
    "llava.serve.streaming": "llava.chat.streaming",
    "llava.serve.terminal": "llava.chat.terminal",
    "llava.serve.visualize": "llava.chat.visualize",
    "llava.serve.web": "llava.chat.web",
    "llava.serve.web_page": "llava.chat.web_page",
    "llava.serve.web_uploads": "llava.chat.web_uploads",
    "llava.serve.web_worker": "llava.chat.web_worker",
}


class MovedModules(MetaPathFinder, Loader):
    """Imports a module under its old name as the one that took its place, with a DeprecationWarning."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        warnings.warn(f"{name} has moved; import {MODULES[name]}.", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module) -> None:
        sys.modules[module.__name__] = importlib.import_module(MODULES[module.__name__])


def renamed_keyword(old: str, new: str) -> Callable[[Callable], Callable]:
    """Makes a function take a keyword under its old name too, with a DeprecationWarning."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            if old in kwargs:
                warnings.warn(f"{old}= has become {new}=.", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_attribute(old: str, new: str) -> property:
    """An attribute under its old name, with a DeprecationWarning."""

    def get(self):
        warnings.warn(f".{old} has become .{new}.", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    def set_(self, value) -> None:
        warnings.warn(f".{old} has become .{new}.", DeprecationWarning, stacklevel=2)
        setattr(self, new, value)

    return property(get, set_)


sys.meta_path.insert(0, MovedModules())
