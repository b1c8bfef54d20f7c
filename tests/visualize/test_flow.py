"""Where the rest went: arrows end at kept tokens, inside their clip, and add up to the masses."""

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.visualize.flow import find_flow
from aot.visualize.scene import make_scene

FRAMES, SIDE, WIDTH = 6, 8, 16  # pooled to 4x4


def video(seed: int = 0) -> dict:
    """Random features and importance of a small video."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(FRAMES, SIDE * SIDE, WIDTH, generator=generator)
    shallow, deep = torch.rand(2, FRAMES, SIDE * SIDE, generator=generator)
    return {"features": features, "shallow": shallow, "deep": deep}


def scene_of(config: AOTConfig, **inputs):
    result = compress(**{**video(), **inputs}, config=config, trace=True)
    frames = np.zeros((FRAMES, 40, 60, 3), np.uint8)
    return result, make_scene(result, frames, np.arange(FRAMES) / 2)


def kept_index(result) -> set[int]:
    rows, columns = result.grid
    visual = result.kind != TokenKind.NEWLINE
    row, column = result.position[visual].T
    return set((result.frame[visual] * rows * columns + row * columns + column).tolist())


@pytest.mark.parametrize("clips", [[2, 2, 2], [1, 4, 1], [6]])
def test_joint_arrows_end_at_kept_tokens_of_their_clip(clips):
    result = compress(**video(), config=AOTConfig(retention=0.2), clips=clips, trace=True)
    target = find_flow(result)
    kept = kept_index(result)
    clip = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(clips) * 16)
    for source, end in enumerate(target.tolist()):
        assert (end == -1) == (source in kept)
        assert end == -1 or (end in kept and clip[end] == clip[source])


def test_a_hard_plan_has_as_many_arrows_as_mass():
    # at this ε the plan's rows are one-hot but for exp(-Δcost / 0.0001), so each mass is 1 + its arrows
    result = compress(**video(), config=AOTConfig(retention=0.2, epsilon=1e-4), trace=True)
    target = find_flow(result)
    arrows = torch.bincount(target[target >= 0], minlength=96)
    index = torch.tensor(sorted(kept_index(result)))
    torch.testing.assert_close(result.mass, 1.0 + arrows[index], atol=0.1, rtol=0)


def test_without_merging_nothing_is_mixed_in():
    assert scene_of(AOTConfig())[1].blended
    scene = scene_of(AOTConfig(merge_cap=0.0))[1]
    assert not scene.blended and (scene.target >= 0).any()


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("newline", [None, torch.ones(WIDTH)])
def test_cascade_arrows_end_at_emitted_tokens(preset, newline):
    config = AOTConfig.preset(preset, num_anchors=24)
    result, scene = scene_of(config, newline=newline, newline_position="grid", clips=[3, 3])
    kept = kept_index(result)
    sources = np.flatnonzero(scene.target.ravel() >= 0)
    assert len(sources) > 0
    assert set(scene.target.ravel()[sources].tolist()) <= kept
    assert not kept & set(sources.tolist())
    # later frames' tokens that were merged went back in time, to the first frame of their clip
    frame = scene.target // 16
    assert (frame[(scene.target >= 0) & (np.arange(6)[:, None, None] < 3)] < 3).all()
    assert (frame[4:][scene.target[4:] >= 0] < 5).any()


def test_methods_that_tell_and_methods_that_drop():
    result, scene = scene_of(AOTConfig(method="random"))
    assert find_flow(result) is None and scene.target is None
    told = torch.full((96,), -1)
    told[5] = int(next(iter(kept_index(result))))
    result.trace["merged_into"] = told
    assert torch.equal(find_flow(result), told)


def test_scene_counts_what_was_emitted():
    result, scene = scene_of(AOTConfig(retention=0.25), newline=torch.ones(WIDTH), newline_position="frame")
    assert scene.before == 96 and scene.after == 24 == scene.counts.sum() == (scene.kind >= 0).sum()
    assert scene.counts.sum(1).tolist() == result.trace["frame_budget"].tolist()
    assert scene.mass.sum() == pytest.approx(96, rel=1e-5)
    assert scene.clips.tolist() == [[0, 4], [4, 6]] and scene.clip_of(3) == 0
    for at, kind in zip(
        result.position[result.kind == TokenKind.LOCAL], result.kind[result.kind == TokenKind.LOCAL], strict=True
    ):
        assert (scene.kind[:, at[0], at[1]] == int(kind)).any()


def test_pictures_of_another_video_are_refused():
    result = compress(**video(), config=AOTConfig(), trace=True)
    with pytest.raises(ValueError, match="6 frames; got 5 pictures"):
        make_scene(result, np.zeros((5, 4, 4, 3), np.uint8), range(5))
    with pytest.raises(ValueError, match="uint8"):
        make_scene(result, np.zeros((6, 4, 4, 3), np.float32), range(6))
