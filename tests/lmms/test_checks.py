"""Wrapper, arguments and checkpoint must fit."""

import json

import pytest

from llava.eval.lmms.arguments import ONEVISION, VIDEO, check_family, check_pool, default_pool
from llava.eval.provenance import checkpoint_fingerprint

GRID, ONE, ABSENT, OWN = ({"mm_newline_position": p} for p in ("grid", "one_token", None, "frame"))


@pytest.mark.parametrize("made, wrapper", [(GRID, VIDEO), (ONE, ONEVISION), ({}, ONEVISION), (OWN, VIDEO)])
def test_a_family_fits_its_wrapper(made, wrapper):
    check_family("checkpoint", made, wrapper)


@pytest.mark.parametrize(
    "made, wrapper, instead",
    [(GRID, ONEVISION, "llava_vid"), (ONE, VIDEO, "llava_onevision"), (ABSENT, VIDEO, "llava_onevision")],
)
def test_the_other_family_is_sent_to_its_wrapper(made, wrapper, instead):
    with pytest.raises(ValueError, match=f"--model {instead} or {instead}_aot"):
        check_family("checkpoint", made, wrapper)


def test_pooling_follows_the_family():
    assert default_pool(GRID) == "average"
    assert default_pool(ONE) == "bilinear"
    assert default_pool({**OWN, "mm_spatial_pool_mode": "max"}) == "max"
    check_pool(GRID, "bilinear", 2)
    for made, mode in ((ONE, "average"), (GRID, "max"), (OWN, "median")):
        with pytest.raises(ValueError, match=mode):
            check_pool(made, mode, 2)
    with pytest.raises(ValueError, match="stride"):
        check_pool(ONE, "bilinear", 4)


def test_a_fingerprint_sees_weights_and_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(300_000))
    first = checkpoint_fingerprint(tmp_path)
    assert first == checkpoint_fingerprint(tmp_path)
    weights.write_bytes(bytes(200_000) + b"\1" + bytes(99_999))
    second = checkpoint_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"a": 2}))
    third = checkpoint_fingerprint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert len({first, second, third, checkpoint_fingerprint(tmp_path)}) == 4


def test_a_commit_of_the_hub_is_the_same_before_and_after_its_weights_came(tmp_path):
    folder = tmp_path / "snapshots" / "3f2a"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    before = checkpoint_fingerprint(folder)
    (folder / "model.safetensors").write_bytes(bytes(9))
    assert checkpoint_fingerprint(folder) == before
