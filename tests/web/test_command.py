"""`aot web` before and around the page; the page itself is in test_browser.py."""

import sys

import pytest

from aot_cli.main import main
from llava.chat.web import _is_local


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "llava.chat.web_page", raising=False)
    assert main(["web"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'aot-video[web]'" in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("wrong", [["--max-mb", "0"], ["--retention", "2"], ["--set", "nothing=1"]])
def test_mistakes_are_one_sentence(wrong, capsys):
    assert main(["web", *wrong]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.7", False), ("box", False)],
)
def test_which_addresses_are_this_machine_alone(host, local):
    assert _is_local(host) == local


def test_errors_show_neither_folders_nor_markup():
    pytest.importorskip("gradio", reason="gradio is not installed; scripts/test_web.sh installs it")
    from llava.chat.web_page import _told

    def refuse(path, percent):
        raise ValueError(f"{path} is empty; copy it again.\nmore")

    shown = _told(refuse, "kept")("/srv/secret/<b>clip.mp4", 10)
    assert shown == ('<p role="alert">&lt;b&gt;clip.mp4 is empty; copy it again.</p>', "kept")
