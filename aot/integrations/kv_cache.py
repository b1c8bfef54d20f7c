"""The key-value cache among the arguments of transformers' models: the one place that knows what it is called."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import AOTError

NAMES = ("cache", "past_key_values")  # since transformers 5.24, and before; the old one is taken until 5.40


@functools.cache
def cache_name(forward: Callable) -> str:
    """What a forward method calls its cache, and its output too. Raises AOTError when it is none of `NAMES`."""
    parameters = inspect.signature(forward).parameters
    for name in NAMES:
        if name in parameters:
            return name
    raise AOTError("This release of transformers calls its cache by a name that is not known; install one below 5.25.")


def take_cache(kwargs: dict[str, Any], given: Any = None) -> Any:
    """Takes the cache of a call out of its keyword arguments, under whichever name it came; None when there is none.

    given: a cache that came otherwise. Raises AOTError for what is no cache of transformers.
    """
    found = [given, *(kwargs.pop(name, None) for name in NAMES)]
    cache = next((value for value in found if value is not None), None)
    if cache is not None and not hasattr(cache, "get_seq_length"):
        raise AOTError(f"The cache is a {type(cache).__name__}; give one of transformers' Cache classes.")
    return cache


def rows_of(cache: Any) -> int | None:
    """How many prompts a cache of transformers holds; None when it does not tell."""
    keys = (getattr(layer, "keys", None) for layer in getattr(cache, "layers", ()))
    return next((len(key) for key in keys if key is not None and key.dim() == 4), None)
