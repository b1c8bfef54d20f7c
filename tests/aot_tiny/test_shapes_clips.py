"""Procedural clips: repeatable, true to their description, readable as real video files."""

import numpy as np
import pytest

from aot_tiny.drawing import shape_mask, signed_distance
from aot_tiny.shapes import clips
from aot_tiny.shapes.clips import COLORS, TIMES, render, sample_clip, write_clip


def test_equal_seeds_give_equal_clips_and_frames():
    assert sample_clip(3) == sample_clip(3) != sample_clip(4)
    assert np.array_equal(render(sample_clip(3), TIMES[:4]), render(sample_clip(3), TIMES[:4]))


@pytest.mark.parametrize("seed", range(20))
def test_things_keep_apart_inside_the_frame_and_colors_are_their_own(seed):
    clip = sample_clip(seed)
    colors = [c for t in clip.things for c in (t.color, t.color_after) if c]
    assert len(colors) == len(set(colors))
    for t in TIMES:
        shown = [thing for thing in clip.all_things if thing.visible(t)]
        for i, a in enumerate(shown):
            assert all(a.radius <= c <= 1 - a.radius for c in a.center(t))
            for b in shown[i + 1 :]:
                assert np.hypot(*np.subtract(a.center(t), b.center(t))) > a.radius + b.radius


@pytest.mark.parametrize("seed", range(30))
def test_a_needle_shows_in_one_or_two_of_the_frames_looked_at(seed):
    clip = sample_clip(seed)
    if clip.needle:
        assert 1 <= sum(clip.needle.visible(t) for t in TIMES) <= 2


def test_pixels_show_the_color_of_the_thing_that_covers_them():
    clip = sample_clip(6)
    frames = render(clip, TIMES, 96)
    for thing in clip.all_things:
        for i, t in enumerate(TIMES):
            if thing.visible(t):
                alpha, box = shape_mask(thing.shape, [96 * c for c in thing.center(t)], 96 * thing.radius, 96)
                assert (alpha > 0.99).any()
                wanted = np.array(COLORS[thing.color_at(t)])
                assert np.abs(frames[i][box][alpha > 0.99].mean(0) - wanted).max() < 25  # tint and clipping


def test_the_file_shows_the_clip(tmp_path):
    av = pytest.importorskip("av")
    clip = write_clip(tmp_path / "clip.mp4", seed=6, size=192)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == (clips.DURATION * clips.FPS, 192, 192, 3)
    drawn = render(clip, np.arange(len(frames)) / clips.FPS, 192)
    assert np.abs(frames.astype(int) - drawn).mean() < 4


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="heptagon"):
        signed_distance("heptagon", np.zeros(1), np.zeros(1))
