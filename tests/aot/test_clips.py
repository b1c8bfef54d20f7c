"""Clip lengths, and where the tokens of clips and windows lie."""

from dataclasses import replace

import torch

from aot import AOTConfig, compress
from aot.clips import clip_layout, default_clip_length, dynamic_clips, short_clips, uniform_clips, window_ids
from aot.types import VideoTokens


def test_clips():
    assert uniform_clips(32) == [4] * 8 and uniform_clips(64) == [8] * 8
    assert uniform_clips(13) == [2] * 6 + [1] and uniform_clips(1) == [1]
    assert uniform_clips(7, 3) == [3, 3, 1]
    lengths = [default_clip_length(tokens) for tokens in (1, 200, 201, 266, 267, 400, 401, 900)]
    assert lengths == [4, 4, 3, 3, 2, 2, 1, 1]
    video = VideoTokens(torch.zeros(11, 196, 1), None, None, (14, 14), None)
    assert short_clips(video, AOTConfig(), 99) == [4, 4, 3]  # 800 tokens hold four frames
    assert short_clips(video, AOTConfig(clip_length=6), 99) == [6, 5]
    assert short_clips(replace(video, clips=[1, 9, 1]), AOTConfig(), 99) == [1, 4, 4, 1, 1]
    assert short_clips(replace(video, clips=[1, 9, 1]), AOTConfig(clip_length=6), 99) == [1, 6, 3, 1]
    assert short_clips(video, AOTConfig(), 2) == [4, 7]
    assert short_clips(replace(video, clips=[1, 2, 3, 4, 1]), AOTConfig(), 2) == [3, 8]
    a, b = torch.eye(2)
    still = torch.stack([a, a, b, b, b, a])
    assert dynamic_clips(still, threshold=0.9, cuts=1) == [2, 3, 1]
    assert len(dynamic_clips(still, threshold=-1.0, cuts=5)) == 5
    assert dynamic_clips(a[None], threshold=0.9, cuts=8) == [1]


def test_dynamic_clips_through_compress(make_video):
    features, shallow, deep = make_video(8, (4, 4), 8)
    features = features.clone()
    features[5:] = -features[5:]
    config = AOTConfig(clips="dynamic", clip_threshold=0.0, clip_cuts=1, retention=0.2)
    video = compress(features, shallow, deep, config)
    assert video.clips == [4, 1, 3]  # five frames are more than a clip holds
    assert compress(features, shallow, deep, config, clips=[2, 6]).clips == [2, 4, 2]


def test_windows_of_a_clip_hold_each_token_once():
    for grid, frames in (((6, 6), 2), ((5, 7), 3), ((3, 2), 2)):
        places = grid[0] * grid[1]
        layout = clip_layout((frames,), (frames * places,), grid, 0.0, torch.device("cpu"), frames=frames)
        windows, ids = layout.windows, window_ids(grid)
        assert windows.member[windows.valid].sort().values.tolist() == list(range(frames * places))
        assert torch.equal(windows.member.flatten()[windows.slot], torch.arange(frames * places))
        for window in range(9):
            assert bool((ids[windows.member[window][windows.valid[window]] % places] == window).all())


def test_the_worked_example_of_a_layout():
    """As the docstring of `ClipLayout` shows it: clips of 2 and 1 frames of two tokens, which keep 2 and 1."""
    layout = clip_layout((2, 1), (2, 1), (1, 2), 0.5, torch.device("cpu"), frames=2)
    assert layout.token_index.tolist() == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert layout.valid.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert layout.flat_slot.tolist() == [0, 1, 2, 3, 4, 5] and layout.start_frame.tolist() == [0, 2]
    assert layout.kept_valid.int().tolist() == [[1, 1], [1, 0]]
    assert layout.kept_index.tolist() == [[0, 1], [2, 2]] and layout.kept_slot.tolist() == [0, 1, 2]
