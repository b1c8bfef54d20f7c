"""Names of the last release are told what they have become, and still work."""

import importlib
import subprocess
import sys

import pytest

from aot.deprecated import renamed_attribute, renamed_keywords
from llava import MODULES


@pytest.mark.parametrize("old", [name for name in MODULES if "web" not in name])
def test_a_module_under_its_old_name_is_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=MODULES[old]):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MODULES[old])


def test_the_warning_points_at_who_imports():
    code = "from llava.serve.session import ChatSession; print(ChatSession.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "llava.chat.session\n"
    said = "The module llava.serve.session is now called llava.chat.session;"
    assert f"<string>:1: DeprecationWarning: {said}" in done.stderr


def test_a_keyword_and_an_attribute_under_their_old_names():
    @renamed_keywords(aot="compression")
    def load(*, compression=None):
        return compression

    class Session:
        compression, aot = 1, renamed_attribute("aot", "compression")

    session = Session()
    with pytest.warns(DeprecationWarning, match="compression="):
        assert load(aot=2) == 2
    with pytest.warns(DeprecationWarning, match=".compression"):
        session.aot = session.aot + 2
    assert session.compression == 3 and load(compression=4) == 4
