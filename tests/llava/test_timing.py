"""Milliseconds per stage: on CUDA by events, without a wait before they are read."""

import time
from pathlib import Path

import pytest
import torch

from llava.model.timing import Timing, peak_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def clock(monkeypatch):
    """A device whose clock stands at `clock.now` milliseconds, and that counts how often it is waited for."""

    class Clock:
        now, waits = 0.0, 0

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = Clock.now

        def synchronize(self):
            Clock.waits += 1

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return Clock


def test_a_stage_on_a_cpu_takes_the_time_on_the_wall():
    timing = Timing(tower=1.0)
    with timing.stage("tower", CPU):
        time.sleep(0.02)
    assert 20 <= timing["tower"] - 1 < 2000


def test_a_stage_on_a_gpu_waits_when_it_is_read_and_not_before(clock):
    timing = Timing(tower=0.0, compress=0.0)
    for spent in (5.0, 7.0):
        with timing.stage("tower", GPU):
            clock.now += spent
        clock.now += 100
    assert clock.waits == 0
    assert timing["tower"] == 12 and clock.waits == 2
    assert timing["tower"] == 12 and clock.waits == 2  # once
    assert dict(timing) == {"tower": 12.0, "compress": 0.0}


def test_calls_add_up_without_a_wait(clock):
    whole = Timing(wait=3.0)
    for spent in (1.0, 2.0):
        call = Timing(tower=0.5)
        with call.stage("tower", GPU):
            clock.now += spent
        whole.add(call, "tower")
    assert clock.waits == 0
    assert whole["tower"] == 4.0 and whole["wait"] == 3.0


def test_a_figure_that_is_set_forgets_what_was_pending(clock):
    timing = Timing(compress=0.0)
    with timing.stage("compress", GPU):
        clock.now += 9
    timing["compress"] = 0.0
    assert timing["compress"] == 0.0 and clock.waits == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
def test_peak_memory_is_that_of_the_kernel():
    lines = Path("/proc/self/status").read_text().splitlines()
    (told,) = (line.split()[1:] for line in lines if line.startswith("VmHWM"))
    assert told[1] == "kB" and peak_memory()["ram"] == pytest.approx(int(told[0]) / 1024, rel=0.02)
