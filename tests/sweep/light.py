"""Makes `llava.eval` importable without `llava`'s own imports, so that a child process starts at once."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]

for _name in ("llava", "llava.eval"):
    _module = sys.modules.setdefault(_name, types.ModuleType(_name))
    _module.__path__ = [str(ROOT / _name.replace(".", "/"))]
