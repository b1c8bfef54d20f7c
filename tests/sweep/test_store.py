import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.records import Record
from llava.eval.store import InUseError, ResponseStore, locked, question_key

KEYS = [f"q{i}" for i in range(60)]

# answers its share of the questions that have no record; FOLDER RANK WORLD
WORKER = """
import sys, time
import light
from llava.eval.records import Record
from llava.eval.store import ResponseStore
rank, world = map(int, sys.argv[2:])
with ResponseStore(sys.argv[1]) as store:
    for key in [f"q{i}" for i in range(60)][rank::world]:
        if store.get(key) is None:
            time.sleep(0.01)
            store.put(key, Record("t", key, reply=key.upper()))
            print(key, flush=True)
"""


def worker(folder, rank=0, world=1):
    words = [sys.executable, "-c", WORKER, str(folder), str(rank), str(world)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)


def said(reply, failure=None):
    return Record("t", "1", reply=reply, failure=failure)


def answers(folder):
    """The one file of answers of a folder."""
    (path,) = folder.glob("answers-*.jsonl")
    return path


def test_a_record_comes_back_and_survives_the_process(tmp_path):
    record = replace(said("naïve\n"), tokens={"visual": 3}, seconds={"total": 0.5}, strata={"camera": "pan"})
    with ResponseStore(tmp_path) as store:
        assert store.get("a") is None and not list(tmp_path.iterdir())  # looking leaves no trace
        store.put("a", record)
        assert store.get("a") == record
        store.put("a", said("second"))
    with ResponseStore(tmp_path) as store:
        assert store.get("a").reply == "second"


def test_stores_see_one_another(tmp_path):
    with ResponseStore(tmp_path) as one, ResponseStore(tmp_path) as two:
        one.put("a", said("1"))
        assert two.get("a") == said("1")
        two.put("a", said("2"))
        assert one.records() == {"a": said("2")}


def test_without_a_folder_records_are_in_memory():
    with ResponseStore() as store:
        store.put("a", said("1"))
        assert store.records() == {"a": said("1")} and store.answered(["a", "b"]) == 1


@pytest.mark.parametrize("torn", ['{"key": "b", "num', '{"key": "b", "number": 1, "record": {"task": "x"}}', "\xe9"])
def test_a_torn_last_line_is_ignored(tmp_path, torn):
    with ResponseStore(tmp_path) as store:
        store.put("a", said("1"))
    path = answers(tmp_path)
    path.write_bytes(path.read_bytes() + torn.encode("latin-1"))
    with ResponseStore(tmp_path) as store:
        assert store.get("b") is None and store.get("a") == said("1")
        store.put("b", said("2"))
    assert ResponseStore(tmp_path).records() == {"a": said("1"), "b": said("2")}


@pytest.mark.parametrize(
    "bad",
    [
        b"{", b"3", b'{"key": "b"}', b"\xff", b"\0" * 40, b'{"key": "b", "number": "1", "record": {}}',
        b'{"key": "b", "number": 1, "record": {"reply": "x"}}',
    ],
)  # fmt: skip
def test_a_corrupt_line_is_named_and_nothing_else_is_lost(tmp_path, caplog, bad):
    with ResponseStore(tmp_path) as store:
        for key in "abc":
            store.put(key, said(key))
    path = answers(tmp_path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], bad, *lines[2:]]))
    with ResponseStore(tmp_path) as store:
        assert set(store.records()) == {"a", "c"}
        assert caplog.text.count(str(path)) == 1
        store.put("b", said("again"))
        assert set(store.records()) == {"a", "b", "c"}


def test_what_a_full_disk_cut_short_does_not_spoil_the_next_line(tmp_path, monkeypatch):
    with ResponseStore(tmp_path) as store:
        store.put("a", said("1"))
        whole, write = answers(tmp_path).read_bytes(), os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(OSError, match="disk is full"):
            store.put("b", said("2"))
        assert answers(tmp_path).read_bytes() == whole
        monkeypatch.setattr(os, "write", write)
        store.put("b", said("2"))
    assert ResponseStore(tmp_path).records() == {"a": said("1"), "b": said("2")}


def test_texts_with_other_line_ends_and_lone_surrogates_come_back(tmp_path):
    record = said("a\u2028b\u2029c\u0085d\re \ud800")
    with ResponseStore(tmp_path) as store:
        store.put(question_key(question=record.reply), record)
    assert list(ResponseStore(tmp_path).records().values()) == [record]


def test_records_of_an_earlier_release_are_read(tmp_path):
    row = {"model": "m", "task": "t", "doc_id": 1, "reply": "x", "failure": None, "rank": 0}
    (tmp_path / "answers-1.jsonl").write_text(json.dumps({"key": "a", "number": 1, "record": row}) + "\n")
    assert ResponseStore(tmp_path).get("a") == said("x")


def test_failures_can_be_asked_again(tmp_path):
    with ResponseStore(tmp_path) as store:
        store.put("a", said(None, "no such file"))
        store.put("b", said("x"))
        store.forget_failures()
        assert store.get("a") is None
    assert set(ResponseStore(tmp_path).records()) == {"b"}


def test_two_processes_answer_a_share_each(tmp_path):
    workers = [worker(tmp_path, rank, 2) for rank in (0, 1)]
    asked = [w.communicate(timeout=600)[0].split() for w in workers]
    assert asked == [KEYS[::2], KEYS[1::2]]
    assert {k: r.reply for k, r in ResponseStore(tmp_path).records().items()} == {k: k.upper() for k in KEYS}


def test_what_a_killed_process_left_is_done_by_the_next(tmp_path):
    first = worker(tmp_path)
    assert first.stdout.readline()  # it is at work
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    kept = set(ResponseStore(tmp_path).records())
    again = worker(tmp_path).communicate(timeout=600)[0].split()
    assert kept and not kept & set(again) and kept | set(again) == set(KEYS)


def test_a_folder_is_one_process_at_a_time(tmp_path):
    with locked(tmp_path / "x"), pytest.raises(InUseError, match="Another process"), locked(tmp_path / "x"):
        pass
    with locked(tmp_path / "x"):
        pass


def test_keys_follow_from_the_parts_alone():
    one = question_key(model="m", settings={"a": 1, "b": None}, task="t", doc_id=3)
    assert one == question_key(doc_id=3, task="t", settings={"b": None, "a": 1}, model="m")
    assert one != question_key(doc_id=4, task="t", settings={"b": None, "a": 1}, model="m")


def test_every_line_is_one_json_object(tmp_path):
    with ResponseStore(tmp_path) as store:
        store.put("a", said("two\nlines"))
    (line,) = answers(tmp_path).read_text().splitlines()
    assert json.loads(line)["record"]["reply"] == "two\nlines"
