"""Encoded videos on the disk in wrappers of LLaVA's models: what a second run or another setting still does."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.models import get_model

from aot import AOTConfig
from aot_tiny.shapes.clips import write_clip
from llava.eval.lmms import encoded, wrapper
from llava.model import llava_arch
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower

EMBEDDED = Path(__file__).resolve().parents[2] / "checkpoints" / "aot-tiny"
QUESTION = "How many objects appear in the video in total?"


@pytest.fixture
def other(tmp_path):
    write_clip(tmp_path / "other.mp4", 8)
    return str(tmp_path / "other.mp4")


@pytest.fixture
def work(monkeypatch):
    """What is decoded and encoded, as it comes."""
    done, encode, load = [], SigLipVisionTower.encode, wrapper.load_video
    monkeypatch.setattr(SigLipVisionTower, "encode", lambda *a, **k: done.append("tower") or encode(*a, **k))
    for module in (wrapper, encoded):
        monkeypatch.setattr(module, "load_video", lambda *a, **k: done.append("decode") or load(*a, **k))
    return done


def built(name, **arguments):
    return get_model(name)(
        pretrained=str(EMBEDDED), batch_size=1, device="cpu", max_frames_num=4, **{"retention": 1, **arguments}
    )


def records(made, docs, ask, task="task"):
    """Records of the questions without their times, and the seconds of their towers."""
    made._answers._records.clear()
    ask.visuals = lambda doc: doc["shown"]
    ask(made, docs, QUESTION, task=task, max_new_tokens=2)
    found = sorted(made._answers.records().values(), key=lambda record: int(record.doc_id))
    return [replace(record, seconds={}) for record in found], [record.seconds["tower"] for record in found]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("llava_vid_aot", None), ("llava_onevision_aot", AOTConfig(retention=0.25, tower_reuse=0.02))],
)
def test_a_second_run_and_another_share_start_at_the_language_model(
    name, settings, ask, clip, cut_clip, other, tmp_path, work
):
    docs = [{"shown": [clip]}, {"shown": [cut_clip]}, {"shown": [clip + ".gone"]}, {"shown": [other, clip]}]
    plain, first, second = (built(name, **kept) for kept in ({}, {"cache": tmp_path / "a"}, {"cache": tmp_path / "a"}))
    for made in (plain, first, second):
        made._config.aot = settings
    expected, _ = records(plain, docs, ask)
    assert [record.failure is None for record in expected] == [True, False, False, True]
    found, towers = records(first, docs, ask)
    assert found == expected and towers[0] > 0 < towers[3]
    work.clear()
    found, towers = records(second, docs, ask)
    assert found == expected and towers == [0.0] * 4 and work == ["decode"]  # of what is cut
    work.clear()
    again = settings.replace(retention=0.1) if settings else AOTConfig(retention=0.1)
    plain._config.aot = second._config.aot = again
    found, towers = records(second, docs[-1:], ask, task="share")
    assert work == [] and found == records(plain, docs[-1:], ask, task="share")[0]


def test_a_long_video_is_compressed_while_it_is_encoded_whatever_the_disk_holds(ask, clip, tmp_path, monkeypatch):
    for module in (encoded, llava_arch):
        monkeypatch.setattr(module, "STREAM_ABOVE", 3)
    plain, kept = built("llava_onevision_aot"), built("llava_onevision_aot", cache=tmp_path)
    for settings in (None, AOTConfig(retention=0.25)):  # without reduction there is no stream
        plain._config.aot = kept._config.aot = settings
        assert records(plain, [{"shown": [clip]}], ask)[0] == records(kept, [{"shown": [clip]}], ask)[0]
    assert len(kept._encoded.cache.entries()) == 1


def test_grey_frames_never_pass_for_a_video(ask, clip, tmp_path, monkeypatch):
    made = built("llava_onevision_aot", cache=tmp_path)
    for _ in range(2):
        found, _ = records(made, [{"shown": [clip]}], ask)
    monkeypatch.setattr(made._model, "encode_videos", made._encoded._encode)  # which knows of no disk
    (found,), _ = records(made, [{"shown": [clip]}], ask)
    assert "the model was not shown it" in found.failure and found.reply is None
    with pytest.raises(RuntimeError, match="1 were read"), made._encoded.question(alone=True):
        made._encoded.read(clip, num_frames=4)
        made._encoded._encoded([])


def test_a_file_that_changes_is_another_video(ask, clip, other, tmp_path, work):
    made, path = built("llava_onevision_aot", cache=tmp_path / "kept"), tmp_path / "moving.mp4"
    path.write_bytes(Path(clip).read_bytes())
    records(made, [{"shown": [str(path)]}], ask)
    path.write_bytes(Path(other).read_bytes())
    work.clear()
    records(made, [{"shown": [str(path)]}], ask)
    assert work == ["decode", "tower"] and len(made._encoded.cache.entries()) == 2
