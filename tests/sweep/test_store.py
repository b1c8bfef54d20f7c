import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava.eval.sweep.store import ResponseStore, question_key

KEYS = [f"q{i}" for i in range(60)]

# answers questions from the shared queue and says which; the first argument is the folder, the second a pause
WORKER = """
import sys, time
import light
from llava.eval.sweep.store import ResponseStore
keys = [f"q{i}" for i in range(60)]
with ResponseStore(sys.argv[1]) as store:
    for key in store.work(keys, wait=0.02):
        time.sleep(float(sys.argv[2]))
        store.put(key, {"reply": key.upper(), "by": store.token, "failure": None})
        print(key, flush=True)
"""


def worker(folder, pause=0.005):
    words = [sys.executable, "-c", WORKER, str(folder), str(pause)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)


def test_a_record_comes_back_and_survives_the_process(tmp_path):
    with ResponseStore(tmp_path) as store:
        assert store.get("a") is None
        store.put("a", {"reply": "naïve\n", "failure": None})
        assert store.get("a") == {"reply": "naïve\n", "failure": None}
        store.put("a", {"reply": "second", "failure": None})
    with ResponseStore(tmp_path) as store:
        assert store.get("a")["reply"] == "second"


def test_stores_see_one_another(tmp_path):
    with ResponseStore(tmp_path) as one, ResponseStore(tmp_path) as two:
        one.put("a", {"reply": "1"})
        assert two.get("a") == {"reply": "1"}
        two.put("a", {"reply": "2"})
        assert one.records() == {"a": {"reply": "2"}}


@pytest.mark.parametrize("torn", ['{"key": "b", "num', '{"key": "b", "number": 1, "record": {"reply": "x"}}', "\xe9"])
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path, torn):
    with ResponseStore(tmp_path) as store:
        store.put("a", {"reply": "1"})
        path = tmp_path / f"answers-{store.token}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode("latin-1"))
    with ResponseStore(tmp_path) as store:
        assert store.get("b") is None and store.get("a") == {"reply": "1"}
        store.put("b", {"reply": "2"})
        assert store.get("b") == {"reply": "2"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "bad", [b"{", b"3", b'{"key": "b"}', b"\xff", b"\0" * 40, b'{"key": "b", "number": "1", "record": {}}']
)
def test_a_corrupt_line_is_named_and_nothing_else_is_lost(tmp_path, caplog, bad):
    with ResponseStore(tmp_path) as store:
        for key in "abc":
            store.put(key, {"reply": key})
        path = tmp_path / f"answers-{store.token}.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], bad, *lines[2:]]))
    with ResponseStore(tmp_path) as store:
        assert set(store.records()) == {"a", "c"}
        assert caplog.text.count(f"{path}:2") == 1
        assert store.claim("b")
        store.put("b", {"reply": "again"})
        assert set(store.records()) == {"a", "b", "c"}


def test_what_a_full_disk_cut_short_does_not_spoil_the_next_line(tmp_path, monkeypatch):
    with ResponseStore(tmp_path) as store:
        store.put("a", {"reply": "1"})
        whole, write = (tmp_path / f"answers-{store.token}.jsonl").read_bytes(), os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(OSError, match="disk is full"):
            store.put("b", {"reply": "2"})
        assert (tmp_path / f"answers-{store.token}.jsonl").read_bytes() == whole
        monkeypatch.setattr(os, "write", write)
        write(store._file, b'{"key": "torn')
        store.put("b", {"reply": "2"})
    with ResponseStore(tmp_path) as store:
        assert store.records() == {"a": {"reply": "1"}, "b": {"reply": "2"}}


def test_texts_with_other_line_ends_and_lone_surrogates_come_back(tmp_path):
    reply = {"reply": "a\u2028b\u2029c\u0085d\re \ud800"}
    with ResponseStore(tmp_path) as store:
        store.put(question_key(question=reply["reply"]), reply)
    with ResponseStore(tmp_path) as store:
        assert list(store.records().values()) == [reply]


def test_the_file_of_a_living_process_is_left_alone(tmp_path):
    with ResponseStore(tmp_path) as store:
        path = tmp_path / f"answers-{store.token}.jsonl"
        path.write_bytes(b'{"key": "half')
        ResponseStore(tmp_path).close()
        assert path.read_bytes() == b'{"key": "half'


def test_only_one_gets_a_claim_and_an_ended_one_loses_it(tmp_path):
    one, two = ResponseStore(tmp_path), ResponseStore(tmp_path)
    assert one.claim("a") and one.claim("a")
    assert not two.claim("a")
    one.close()
    assert two.claim("a")
    two.put("a", {"reply": "1"})
    assert not two.claim("a")
    two.close()


def test_failures_can_be_asked_again(tmp_path):
    with ResponseStore(tmp_path) as store:
        assert store.claim("a") and store.claim("b")
        store.put("a", {"reply": None, "failure": "no such file"})
        store.put("b", {"reply": "x", "failure": None})
        assert store.forget_failures() == 1
        assert store.get("a") is None and store.claim("a") and not store.claim("b")
    with ResponseStore(tmp_path) as store:
        assert set(store.records()) == {"b"}


def test_two_processes_share_a_queue(tmp_path):
    workers = [worker(tmp_path), worker(tmp_path)]
    said = [w.communicate(timeout=600)[0].split() for w in workers]
    assert sorted(said[0] + said[1]) == sorted(KEYS)  # each question once
    with ResponseStore(tmp_path) as store:
        assert {k: r["reply"] for k, r in store.records().items()} == {k: k.upper() for k in KEYS}


def test_what_a_killed_process_left_is_done_by_the_other(tmp_path):
    slow, other = worker(tmp_path, pause=0.05), None
    assert slow.stdout.readline()  # it is at work
    other = worker(tmp_path)
    time.sleep(0.02)
    os.kill(slow.pid, signal.SIGKILL)
    first = slow.communicate()[0].split()
    second = other.communicate(timeout=600)[0].split()
    with ResponseStore(tmp_path) as store:
        assert set(store.records()) == set(KEYS)
    assert not set(first) & set(second)


def test_keys_follow_from_the_parts_alone():
    one = question_key(model="m", settings={"a": 1, "b": None}, task="t", doc_id=3)
    assert one == question_key(doc_id=3, task="t", settings={"b": None, "a": 1}, model="m")
    assert one != question_key(doc_id=4, task="t", settings={"b": None, "a": 1}, model="m")


def test_every_line_is_one_json_object(tmp_path):
    with ResponseStore(tmp_path) as store:
        store.put("a", {"reply": "two\nlines"})
        (line,) = (tmp_path / f"answers-{store.token}.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == {"reply": "two\nlines"}
