"""Runs in processes of their own: killed and taken up again, on two ranks, under deepspeed."""

import json
import time

import pytest
import torch

from aot_cli.main import main
from tests.llava.train.runs import MODES, ROOT, finish, goes_on, losses, start, weights, words


@goes_on
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_as_if_it_had_not_been(ranks, checkpoint, data, media, tmp_path):
    """Ten steps are two epochs and a half; the kill comes while the third checkpoint is written, or just behind."""
    more = ["--retention", "0.2", "0.6", "--group_by_modality_length", str(ranks == 1)]
    given = {"steps": 10, "save_every": 3}
    assert main(words(checkpoint, data, media, tmp_path / "whole", *more, **given)) == 0
    line = words(checkpoint, data, media, tmp_path / "killed", *more, batch=2 // ranks, **given)
    processes = start(line, port=29611, ranks=ranks)
    torn = tmp_path / "killed" / "checkpoint-9"
    while not torn.exists() and processes[0].poll() is None:
        time.sleep(0.01)
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-9] * ranks
    (torn / "trainer_state.json").unlink(missing_ok=True)  # so that it is torn in any case
    finish(start(line, port=29612, ranks=ranks))
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("zero", [2, 3])
def test_zero_learns_what_plain_training_learns(zero, ranks, checkpoint, data, media, tmp_path):
    pytest.importorskip("deepspeed", reason="deepspeed is an extra: pip install deepspeed")
    videos = [sample for sample in json.loads(data.read_text()) if sample["id"] in "ad"]  # ZeRO-3 wants one kind
    data.write_text(json.dumps(videos * 2))
    more = [*MODES["full"], "--retention", "0.3"]
    assert main(words(checkpoint, data, media, tmp_path / "plain", *more, steps=3)) == 0
    more += ["--deepspeed", ROOT / "scripts" / f"zero{zero}.json"]
    for steps in (2, 3):  # the second run takes up the first
        line = words(checkpoint, data, media, tmp_path / "zero", *more, batch=2 // ranks, steps=steps)
        line[line.index("--use_cpu") + 1] = "False"  # with it accelerate leaves deepspeed out
        finish(start(line, port=29600 + 10 * zero + 2 * ranks + steps, ranks=ranks, deepspeed=True))
    assert [*(tmp_path / "zero" / "checkpoint-3").glob("global_step*")]  # deepspeed's own state
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    plain, sharded = weights(tmp_path / "plain"), weights(tmp_path / "zero")
    for name in plain:
        if not name.endswith("k_proj.bias"):  # softmax cancels it: its gradient is rounding, which Adam blows up
            torch.testing.assert_close(sharded[name], plain[name], rtol=1e-4, atol=2e-5)
