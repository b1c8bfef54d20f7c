"""Film clips: repeatable, true to their description, nearer to film in what the description says."""

from collections import Counter

import numpy as np
import pytest

from aot_tiny.film import render as drawing
from aot_tiny.film.clips import CAMERAS, COLORS, FPS, LENGTHS, Camera, Clip, Pole, Thing, frame_times, sample_clip
from aot_tiny.film.render import render, render_with_coverage, write_clip


def test_equal_arguments_give_equal_clips_and_frames():
    clip = sample_clip(3)
    assert clip == sample_clip(3) != sample_clip(4)
    assert np.array_equal(render(clip, clip.times[:3], 96), render(clip, clip.times[:3], 96))
    asked = sample_clip(3, frames=24, camera="pan")
    assert asked.frames == 24 and {camera.kind for camera in asked.cameras} == {"pan"} and asked.camera == "moving"


@pytest.mark.parametrize("seed", range(24))
def test_things_keep_apart_inside_the_picture_whatever_the_camera_does(seed):
    clip = sample_clip(seed)
    colors = [c for t in clip.things for c in (t.color, t.color_after) if c]
    assert len(colors) == len(set(colors))
    for t in clip.times:
        shown = [(thing, *clip.path(thing, np.array([t]))) for thing in clip.drawn if thing.visible(t)]
        for i, (_, at, radius) in enumerate(shown):
            assert (radius <= at[:, 0]).all() and (at[:, 0] <= 1 - radius).all()
            for _, other, reach in shown[i + 1 :]:
                assert np.hypot(*(at - other)[:, 0]) > (radius + reach)[0]


def test_lengths_cameras_and_extras_are_all_drawn():
    clips = [sample_clip(seed) for seed in range(200)]
    assert {c.frames for c in clips} == set(LENGTHS)
    assert {camera.kind for c in clips for camera in c.cameras} == set(CAMERAS)
    assert Counter(c.camera for c in clips)["still"] > 30
    for part in ("needle", "sign", "pole"):
        assert 10 < sum(getattr(c, part) is not None for c in clips) < 190
    radii = [t.radius for c in clips for t in c.things]
    assert min(radii) < 0.06 and max(radii) > 0.12


@pytest.mark.parametrize("seed", range(30))
def test_a_needle_shows_in_one_or_two_of_the_frames_looked_at(seed):
    clip = sample_clip(seed)
    if clip.needle:
        assert 1 <= sum(clip.needle.visible(t) for t in clip.times) <= 2


THING = Thing("square", "red", 0.1, (0.4, 0.5), (0.4, 0.5), on=0.0, off=16.0)


def test_a_camera_moves_what_stands_still():
    times = frame_times(16)
    pan = Clip(1, 16, (0.0,), (Camera("pan", 2.0, 10.0, (0.2, -0.1)),), (THING,))
    path, radius = pan.path(THING, times)
    assert np.allclose(path[:, 0], (0.4, 0.5)) and np.allclose(path[:, -1], (0.2, 0.6)) and np.allclose(radius, 0.1)
    zoom = Clip(1, 16, (0.0,), (Camera("zoom", 2.0, 10.0, zoom=1.5),), (THING,))
    path, radius = zoom.path(THING, times)
    assert np.allclose(path[:, -1], (0.35, 0.5)) and radius[-1] == pytest.approx(0.15)
    shake = Clip(1, 16, (0.0,), (Camera("shake", 2.0, 10.0, phases=(1, 2, 3, 4, 5, 6)),), (THING,))
    path, _ = shake.path(THING, times)
    assert 0.002 < np.abs(path - path[:, :1]).max() < 0.06 and np.allclose(path[:, -1], (0.4, 0.5))


def test_a_cut_brings_another_camera():
    clip = Clip(1, 16, (0.0, 7.6), (Camera("pan", 0.0, 4.0, (0.2, 0.0)), Camera("still")), (THING,))
    offset, zoom = clip.view(np.array([5.0, 8.0]))
    assert np.allclose(offset, [[0.2, 0.0], [0.0, 0.0]]) and np.allclose(zoom, 1)


def test_pixels_show_the_color_of_the_thing_that_covers_them():
    clip = sample_clip(6, frames=16)
    frames, cover = render_with_coverage(clip, clip.times, 96, 96)  # a cell a pixel
    for k, thing in enumerate(clip.all_things):
        for i, t in enumerate(clip.times):
            inside = cover[i, k] > 0.99
            assert inside.any() == thing.visible(t)
            if thing.visible(t):
                wanted = np.array(COLORS[thing.color_at(t)], dtype=float)
                seen = frames[i][inside].mean(0)
                # light may change by a third, hue hardly
                assert np.abs(seen / seen.max() - wanted / wanted.max()).max() < 0.2


def test_every_frame_has_noise_of_its_own():
    clip = Clip(5, 16, (0.0,), (Camera("still"),), ())
    frames = render(clip, clip.times, 96).astype(int)
    residue = frames - frames.mean(0)
    assert residue.std() > 1
    assert abs(np.corrcoef(residue[0].ravel(), residue[1].ravel())[0, 1]) < 0.3


def test_a_pole_hides_what_is_behind_it():
    clip = Clip(5, 16, (0.0,), (Camera("still"),), (THING,), pole=Pole(2.0, 10.0, 0.08, leftward=False))
    open_ = Clip(5, 16, (0.0,), (Camera("still"),), (THING,))
    hidden, shown = (render_with_coverage(c, c.times, 96, 24)[1].sum((1, 2, 3)) for c in (clip, open_))
    assert (hidden <= shown + 1e-6).all() and hidden.min() < 0.7 * shown.min()
    assert np.allclose(hidden[[0, -1]], shown[[0, -1]])


def test_a_sign_shows_its_digits():
    dark = {code: drawing._plate(code, (70, 98))[..., 0] < 100 for code in ("11", "88", "18")}
    left, right = np.s_[:, :49], np.s_[:, 49:]
    assert (dark["18"][left] == dark["11"][left]).all() and (dark["18"][right] == dark["88"][right]).all()
    assert dark["11"].sum() < dark["18"].sum() < dark["88"].sum()


def test_the_file_shows_the_clip(tmp_path):
    import av

    clip = write_clip(tmp_path / "clip.mp4", seed=6, frames=16, size=96)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == (clip.frames * FPS, 96, 96, 3)
    drawn = render(clip, np.arange(len(frames)) / FPS, 96)
    assert np.abs(frames.astype(int) - drawn).mean() < 6
