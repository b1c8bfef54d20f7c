import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from aot_cli.main import make_parser
from llava.eval.download import GROUPS, SOURCES, execute, expand


class HubError(OSError):
    pass


class Hub:
    """Stands for huggingface_hub: two files a repository, of which `cached` are here; `broken` ones break off."""

    def __init__(self, folder, *, cached=(), broken=(), offline=False, gated=False, bytes_a_file=600_000_000):
        self.constants = SimpleNamespace(HF_HUB_CACHE=str(folder))
        self.errors = SimpleNamespace(HfHubHTTPError=HubError)
        self.cached, self.broken, self.offline, self.gated = set(cached), set(broken), offline, gated
        self.bytes_a_file = bytes_a_file
        self.fetched = []

    def HfApi(self):  # noqa: N802 - the hub's name
        return self

    def repo_info(self, repository, *, repo_type, revision, files_metadata):
        if self.offline:
            raise HubError("no route to host\nand more")
        files = [SimpleNamespace(rfilename=name, size=self.bytes_a_file) for name in ("one", "two")]
        card = SimpleNamespace(to_dict=lambda: {"license": "cc-by-nc-4.0"} if "MLVU" in repository else {})
        return SimpleNamespace(siblings=files, card_data=card, tags=["x"], gated=self.gated, sha="abc")

    def try_to_load_from_cache(self, repository, file, *, cache_dir, revision, repo_type):
        return f"{cache_dir}/{file}" if (repository, file) in self.cached else None

    def snapshot_download(self, repository, *, repo_type, revision, cache_dir):
        self.fetched.append((repository, repo_type, revision))
        if repository in self.broken:
            raise HubError("connection reset")
        self.cached |= {(repository, "one"), (repository, "two")}


def main(words, **stands_in):
    return execute(make_parser().parse_args(["download", *words]), **stands_in)


@pytest.fixture
def room(monkeypatch):
    """A disk that holds everything."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**15))


def never(_):
    raise AssertionError("asked")


def test_sizes_and_licences_are_told_before_it_asks_and_no_means_no(tmp_path, capsys, room):
    hub = Hub(tmp_path, cached=[(SOURCES["mlvu-dev"].repository, "one")])
    told = []

    def ask(_):
        told.append(capsys.readouterr().out)
        return ""

    assert main(["mlvu-dev", "ov-7b"], hub=hub, ask=ask) == 1
    assert "1.2 GB, 600.0 MB to fetch" in told[0] and "cc-by-nc-4.0" in told[0]
    assert "not stated" in told[0] and "in all: 1.8 GB" in told[0]
    assert hub.fetched == []


def test_yes_fetches_and_what_broke_off_goes_on(tmp_path, capsys, room):
    hub = Hub(tmp_path, broken=[SOURCES["ov-7b"].repository])
    assert main(["ov-7b", "mvbench"], hub=hub, ask=lambda _: "y") == 1
    assert "ov-7b broke off (connection reset)" in capsys.readouterr().err
    assert ("OpenGVLab/MVBench", "dataset", "video") in hub.fetched
    hub.broken.clear()
    hub.fetched.clear()
    assert main(["ov-7b", "mvbench", "--yes"], hub=hub, ask=never) == 0
    assert hub.fetched == [(SOURCES["ov-7b"].repository, "model", None)]
    assert main(["ov-7b"], hub=hub, ask=never) == 0  # all here


def test_no_network_a_full_disk_and_nobody_there(tmp_path, capsys, monkeypatch):
    assert main(["ov-7b"], hub=Hub(tmp_path, offline=True), ask=never) == 1
    said = capsys.readouterr().err
    assert "no route to host" in said and said.count("\n") == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert main(["ov-7b"], hub=Hub(tmp_path), ask=never) == 1
    assert "make room" in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**15))

    def nobody(_):
        raise EOFError

    assert main(["ov-7b"], hub=Hub(tmp_path), ask=nobody) == 1
    assert "--yes" in capsys.readouterr().err


def test_listing_fetches_nothing_and_gated_ones_say_so(tmp_path, capsys):
    hub = Hub(tmp_path / "not" / "there", gated=True)
    assert main(["benchmarks", "--list"], hub=hub, ask=never) == 0
    assert capsys.readouterr().out.count("hf auth login") == len(GROUPS["benchmarks"])
    assert hub.fetched == []


def test_names(capsys):
    assert expand(["checkpoints", "ov-7b"]) == ["ov-7b", "video-7b"]
    assert all(set(group) <= set(SOURCES) for group in GROUPS.values())
    with pytest.raises(SystemExit) as ended:
        main(["everything"])
    assert ended.value.code == 2 and "'everything'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_download_is_stopped_at_once(tmp_path, number, code):
    """The hub fetches in threads, and would first bring each of their files to its end."""
    (tmp_path / "start.py").write_text(
        "import sys, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from tests.sweep.test_download import Hub, main\n"
        "def slow(self, *_, **__):\n"
        "    with ThreadPoolExecutor() as threads:\n"
        "        threads.submit(lambda: (print('begun', flush=True), time.sleep(300)))\n"
        "        threads.submit(time.sleep, 300).result()\n"
        "Hub.snapshot_download = slow\n"
        "sys.exit(main(['mlvu-dev', '--yes'], hub=Hub('.', bytes_a_file=1)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, "start.py"], cwd=tmp_path, env=environment, **pipes)
    while "begun" not in (line := started.stdout.readline()):
        assert line, started.stderr.read()
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == code and err.endswith("\naot download: stopped; the same command goes on.\n")
