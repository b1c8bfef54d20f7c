"""Other methods behind the same call; importing this package registers them."""

from . import floors

__all__ = ["floors"]
