"""Python's cycle collector, off while much is made that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off(*, freeze: bool = False) -> Iterator[None]:
    """No collection inside: imports and models make objects by the hundred thousand and none of them is garbage.

    A sixth of the time until a model is loaded goes into looking at them again and again. freeze: what exists at the
    end is never looked at again, for a program at its start, whose modules stay.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if collecting:
            gc.enable()
