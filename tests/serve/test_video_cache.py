"""Encoded videos on the disk: what is found again, what is not, and several processes in one folder."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import llava.video_cache as module
from aot import AOTConfig
from aot_cli.main import main
from aot_cli.parser import cache_folder
from llava.chat import session as chat_session
from llava.chat.prompt import Sampling
from llava.chat.session import ChatSession
from llava.model.compression import VideoFeatures
from llava.video import Video, VideoError
from llava.video_cache import VideoCache, video_digest

fork = multiprocessing.get_context("fork")


@pytest.fixture
def new_session(loaded, tmp_path, monkeypatch):
    """Makes sessions as further runs of a program have them, which count what they decode and encode."""
    tokenizer, model, processor, context = loaded
    tower, encode, load = model.get_vision_tower(), model.get_vision_tower().encode, chat_session.load_video

    def make(retention=0.1, **changes):
        cache = VideoCache(tmp_path / "cache", most_bytes=10**9, identity={"model": "tiny"})
        config = AOTConfig(retention=retention)
        session = ChatSession(model, tokenizer, processor, context, config, max_new_tokens=6, cache=cache, **changes)
        session.work = []
        monkeypatch.setattr(tower, "encode", lambda p, **w: (session.work.append("tower"), encode(p, **w))[1])
        monkeypatch.setattr(
            chat_session, "load_video", lambda *a, **w: (session.work.append("decode"), load(*a, **w))[1]
        )
        return session

    return make


def entry(seed=0, frames=2):
    """A small video and its features, different for each seed."""
    features = torch.randn(frames, 4, 8, generator=torch.Generator().manual_seed(seed))
    video = Video(np.zeros((frames, 1, 1, 3), np.uint8), np.arange(frames) / 3, frames / 3, "pyav", frames, 3.0)
    return video, VideoFeatures(features, (2, 2), deep=features[..., 0])


def loads_right(cache, key, seed=0):
    found = cache.load(key, torch.device("cpu"))
    return found is not None and torch.equal(found[1].features, entry(seed)[1].features)


def test_another_run_question_or_retention_starts_at_the_language_model(new_session, clip):
    first = new_session()
    first.set_video(clip)
    answer = first.ask("What moves?")
    assert first.work == ["decode", "tower"] and not first.loaded.cached
    second = new_session()
    loaded = second.set_video(clip)
    again = second.ask("What moves?")
    assert (again.text, again.before, again.after) == (answer.text, answer.before, answer.after)
    assert loaded.cached and loaded.timings["tower"] == 0
    second.set_retention(0.5)
    assert second.ask("Where is it?").after.visual == 144
    assert new_session(1.0).set_video(clip).cached
    assert second.work == []
    for name in ("times", "duration", "decoder", "total_frames", "rate"):
        np.testing.assert_array_equal(getattr(loaded.video, name), getattr(first.loaded.video, name))
    assert torch.equal(loaded.features.features, first.loaded.features.features)
    assert loaded.features.outputs == first.loaded.features.outputs == {}
    drawn, shown = new_session(), new_session()
    drawn.set_video(clip)
    frames, times = drawn.drawn
    np.testing.assert_array_equal(frames, first.loaded.video.frames)
    assert shown.work == ["decode"] and len(times) == 8


def test_a_streamed_video_is_kept_under_its_settings(new_session, clip):
    long = {"sampling": Sampling(20, None, False), "stream_above": 19}
    first = new_session(**long)
    first.set_video(clip)
    answer = first.ask("What moves?")
    second = new_session(**long)
    assert second.set_video(clip).streamed and second.loaded.cached and second.work == []
    again = second.ask("What moves?")
    assert (again.text, again.after, again.bound) == (answer.text, answer.after, answer.bound)
    second.set_retention(0.2)
    assert second.ask("What moves?").after.visual == 144 and second.work == ["tower", "tower"]
    second.work.clear()
    second.set_retention(0.1)
    assert second.ask("What moves?").text == answer.text and second.work == []
    # one that may be streamed, but is too short for it, is kept as a whole
    short = {"sampling": Sampling(64, 5.0, False), "stream_above": 19}
    assert not new_session(**short).set_video(clip).cached
    found = new_session(0.3, **short).set_video(clip)
    assert found.cached and not found.streamed


def test_what_differs_is_another_video(new_session, clip, other_clip, tmp_path):
    def cached(session, path):
        return session.set_video(str(path)).cached

    moved = tmp_path / "moved.mp4"
    moved.write_bytes(Path(clip).read_bytes())
    assert [cached(new_session(), path) for path in (clip, clip, moved, other_clip)] == [False, True, True, False]
    moved.write_bytes(moved.read_bytes() + b"\0")
    assert not cached(new_session(), moved)
    assert not cached(new_session(sampling=Sampling(7, None, False)), clip)
    assert not cached(new_session(sampling=Sampling(8, 2.0, False)), clip)
    other = new_session()
    other.cache.identity["model"] = "another"
    assert not cached(other, clip)
    method = new_session()
    method = replace(method, compression=AOTConfig(method="visionzip"))
    assert not cached(method, clip)  # which reads more of the tower
    with pytest.raises(VideoError, match="no video at"):
        cached(new_session(), tmp_path / "none.mp4")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoError, match="no regular file"):
        video_digest(str(tmp_path / "pipe"))


def test_a_file_that_changes_while_it_is_read_is_not_kept(new_session, clip, tmp_path, monkeypatch):
    session, path = new_session(), tmp_path / "growing.mp4"
    path.write_bytes(Path(clip).read_bytes())
    read = session._read
    monkeypatch.setattr(session, "_read", lambda *a: (read(*a), path.write_bytes(path.read_bytes() + b"\0"))[0])
    session.set_video(str(path))
    assert session.cache.entries() == []


def test_pictures_of_a_folder_count_by_name_and_bytes(tmp_path):
    from PIL import Image

    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    before = video_digest(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no picture")
    assert video_digest(str(tmp_path)) == before
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    assert video_digest(str(tmp_path)) != before


@pytest.mark.parametrize("harm", ["cut", "flip", "zeros", "foreign", "other name", "folder"])
def test_what_is_torn_or_foreign_is_not_read(tmp_path, clip, harm):
    cache = VideoCache(tmp_path, most_bytes=10**6)
    key, other = cache.key(clip, n=1), cache.key(clip, n=2)
    cache.save(key, clip, *entry())
    cache.save(other, clip, *entry(1))
    file, whole = cache._file(key), cache._file(key).read_bytes()
    if harm == "cut":
        file.write_bytes(whole[:-5])
    elif harm == "flip":
        file.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    elif harm == "zeros":  # as a lost disk block is
        file.write_bytes(whole[:-64] + bytes(64))
    elif harm == "foreign":
        file.write_bytes(b"{}" * 1000)
    elif harm == "other name":
        file.write_bytes(cache._file(other).read_bytes())
    else:
        file.unlink()
        file.mkdir()
    assert cache.load(key, torch.device("cpu")) is None and loads_right(cache, other, 1)
    if harm != "folder":
        cache.save(key, clip, *entry())
        assert loads_right(cache, key)


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read(tmp_path, clip, monkeypatch):
    cache = VideoCache(tmp_path, most_bytes=10**6)
    key = cache.key(clip)

    def killed(tensors, part, metadata):
        write(tensors, part, metadata)
        os.truncate(part, os.path.getsize(part) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    write = module.save_file
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", killed)
        child = fork.Process(target=cache.save, args=(key, clip, *entry()))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part" and cache.load(key, torch.device("cpu")) is None and cache.entries() == []
    cache.save(key, clip, *entry())
    assert loads_right(cache, key) and part.exists()  # somebody may still be at it
    os.utime(part, (0, time.time() - 2 * module.ABANDONED))
    cache.save(cache.key(clip, n=2), clip, *entry(1))
    assert not part.exists() and loads_right(cache, key)


def test_one_video_written_twice_at_once(tmp_path, clip, monkeypatch, caplog):
    """Two threads, or processes of one number on two machines: each has a file of its own until it is whole."""
    cache = VideoCache(tmp_path, most_bytes=10**6)
    key, write = cache.key(clip), module.save_file

    def meanwhile(*arguments):
        monkeypatch.setattr(module, "save_file", write)
        write(*arguments)
        cache.save(key, clip, *entry())

    monkeypatch.setattr(module, "save_file", meanwhile)
    cache.save(key, clip, *entry())
    assert loads_right(cache, key) and not caplog.records and len(list(tmp_path.iterdir())) == 1


def test_what_was_used_the_longest_ago_goes_first(tmp_path, clip, caplog):
    size = 2 * 4 * 8 * 4
    cache = VideoCache(tmp_path, most_bytes=3000)
    keys = [cache.key(clip, n=n) for n in range(4)]
    for age, (n, key) in zip((40, 30, 20), enumerate(keys), strict=False):
        cache.save(key, clip, *entry(n))
        os.utime(cache._file(key), (0, time.time() - age))
    one = cache.entries()[0].size
    cache.most_bytes = 3 * one + size
    assert loads_right(cache, keys[0])  # which is used now
    (tmp_path / "notes.safetensors").write_bytes(b"another's")
    cache.save(keys[3], clip, *entry(3))
    assert [loads_right(cache, key, n) for n, key in enumerate(keys)] == [True, False, True, True]
    cache.most_bytes = size - 1
    cache.save(keys[1], clip, *entry(1))  # larger than all room
    assert len(cache.entries()) == 3
    cache.most_bytes, cache.folder = 10**6, tmp_path / "notes.safetensors"
    cache.save(keys[1], clip, *entry(1))
    assert "is not kept in the cache" in caplog.text
    cache.folder = tmp_path
    assert cache.clear() == 3 and [file.name for file in tmp_path.iterdir()] == ["notes.safetensors"]


def test_several_processes_share_a_folder(tmp_path, clip):
    """They write and read the same videos where there is room for two: every one that is found is right."""
    cache = VideoCache(tmp_path, most_bytes=10**6)
    keys = [cache.key(clip, n=n) for n in range(4)]
    cache.save(keys[0], clip, *entry())
    cache.most_bytes = 2 * cache.entries()[0].size + 100
    found = fork.Value("i", 0)

    def work():
        torch.set_num_threads(1)
        for turn in range(40):
            n = turn % 4
            cache.save(keys[n], clip, *entry(n))
            for m, key in enumerate(keys):
                video = cache.load(key, torch.device("cpu"))
                assert video is None or torch.equal(video[1].features, entry(m)[1].features)
                with found.get_lock():
                    found.value += video is not None

    children = [fork.Process(target=work) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0] and found.value > 40
    assert 1 <= len(cache.entries()) <= 2 and not list(tmp_path.glob(".*.part"))


def test_the_folder_of_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for base, folder in ((str(tmp_path / "x"), tmp_path / "x/aot"), ("here", tmp_path / ".cache/aot")):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert cache_folder("auto") == folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("auto") == tmp_path / ".cache/aot" and cache_folder("there") == Path("there")


def test_commands(checkpoint, clip, tmp_path, capsys):
    words = [
        "chat",
        clip,
        "--model-path",
        checkpoint,
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        "--question",
        "What?",
    ]
    words += ["--json", "--cache", str(tmp_path / "kept")]
    said = []
    for more in ([], ["--retention", "25%"]):
        assert main([*words, *more]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert [one["video"]["cached"] for one in said] == [False, True]
    assert said[1]["timings_ms"]["tower"] == 0 and said[1]["tokens"]["after"]["visual"] == 72
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"id": 1, "video": clip, "question": "What?"}) + "\n")
    asked = [
        "infer",
        "--input",
        str(questions),
        "--output",
        str(tmp_path / "answers.jsonl"),
        "--model-path",
        checkpoint,
    ]
    assert main([*asked, "--device", "cpu", "--max-new-tokens", "4", "--cache", str(tmp_path / "kept")]) == 0
    answer = json.loads((tmp_path / "answers.jsonl").read_text())
    assert answer["timings_ms"]["tower"] == 0 and answer["answer"] == said[0]["answer"]
    capsys.readouterr()
    assert main(["cache", str(tmp_path / "kept")]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[0].endswith(f"8 frames  features     {clip}") and "\n1 video, 0." in listed
    assert main(["cache", str(tmp_path / "kept"), "--clear"]) == 0 and "deleted 1 video" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--cache-gb", "0"])
    assert "--cache-gb: use more than 0" in capsys.readouterr().err
