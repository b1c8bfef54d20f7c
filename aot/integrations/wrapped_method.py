"""A method of a model that is taken over for a while, and given back."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


class WrappedMethod:
    """Stands on a model in front of a method, its class's or its own: a call goes to `function`, with both.

    It can be copied and saved with the model.
    """

    def __init__(self, model: nn.Module, name: str, function: Callable):
        self.model, self.name, self.function = model, name, function
        self.had = model.__dict__.get(name)  # the instance's own

    def put(self) -> None:
        """Stands there from now on."""
        setattr(self.model, self.name, self)

    def remove(self) -> None:
        """Gives the place back."""
        delattr(self.model, self.name)
        if self.had is not None:
            setattr(self.model, self.name, self.had)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self._original(), self.model, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:  # generate reads that of the method
        return inspect.signature(self._original().__get__(self.model))

    def _original(self) -> Any:
        if self.had is None:
            return inspect.getattr_static(type(self.model), self.name)
        if isinstance(self.had, MethodType):
            return self.had.__func__
        return lambda model, *args, **kwargs: self.had(*args, **kwargs)
