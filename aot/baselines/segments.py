"""Cutting a video in runs of frames. The rule by adjacent cosines is `aot.temporal.dynamic_clips`."""

from itertools import groupby

import torch

from .clustering import dpc_knn


def density_segments(means: torch.Tensor, count: int, *, neighbours: int) -> list[int]:
    """Lengths of at most `count` segments: DPC-kNN clusters of frame means, made contiguous.

    means: (T, D). Waits once for the device.
    """
    everything = torch.ones(1, means.shape[0], dtype=torch.bool, device=means.device)
    counts = torch.full((1,), min(count, means.shape[0]), device=means.device)
    return contiguous_lengths(dpc_knn(means.unsqueeze(0), everything, counts, neighbours=neighbours).label[0].tolist())


def contiguous_lengths(labels: list[int]) -> list[int]:
    """Segment lengths, one segment per label: its longest run, the earliest of equals.

    Frames of other runs join the segment before them, or the first segment when there is none.
    """
    runs = [(label, sum(1 for _ in frames)) for label, frames in groupby(labels)]
    longest = {label: max(length for other, length in runs if other == label) for label in set(labels)}
    lengths, early = [], 0
    for label, length in runs:
        if longest.get(label) == length:
            del longest[label]
            lengths.append(early + length)
            early = 0
        elif lengths:
            lengths[-1] += length
        else:
            early += length
    return lengths


def static_windows(alike: torch.Tensor) -> list[int]:
    """Window lengths that maximise Σ (places alike in all steps of a window)·(length - 1); of equals, short ones.

    alike: (T - 1, P) bool, whether a place is alike in frames t and t + 1. Dynamic programme over the last
    window's start; O(T·(T + P)) and one wait for the device.
    """
    steps = alike.shape[0]
    if steps == 0:
        return [1]
    # frame since which a place has been alike without a break, of frames 1 to T - 1
    frame = torch.arange(1, steps + 1, device=alike.device).unsqueeze(1)
    since = torch.where(alike, 0, frame).cummax(dim=0).values
    static = torch.zeros(steps, steps + 1, dtype=torch.int64, device=alike.device)
    static = static.scatter_add_(1, since, torch.ones_like(since)).cumsum(1).tolist()
    best, start = [0, 0], [0]
    for last in range(1, steps + 1):
        row = static[last - 1]
        gain = [best[i] + row[i] * (last - i) for i in range(last + 1)]
        start.append(max(range(last, -1, -1), key=gain.__getitem__))
        best.append(gain[start[-1]])
    lengths, end = [], steps + 1
    while end > 0:
        lengths.append(end - start[end - 1])
        end = start[end - 1]
    return lengths[::-1]
