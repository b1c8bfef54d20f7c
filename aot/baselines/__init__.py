"""Other methods behind the same call; importing this package registers them."""

from . import dycoke, evs, floors, vidcom2

__all__ = ["dycoke", "evs", "floors", "vidcom2"]
