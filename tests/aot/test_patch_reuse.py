"""Which frames and patches of a video repeat."""

import pytest
import torch

from aot import AOTConfig, AOTError
from aot.patch_reuse import KEY_EVERY, distinct_frames, patches_of, plan_reuse


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_equal_frames_are_found_wherever_they_are(dtype):
    a, b, c = torch.randint(0, 255, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    turned = a.flip(-1)  # has the sum of a
    frames, which = distinct_frames(torch.stack([a, a, b, a, turned, c, b]))
    assert which == [0, 0, 1, 0, 2, 3, 1]
    assert torch.equal(frames, torch.stack([a, b, turned, c]))


def test_frames_without_repetitions_are_not_copied():
    frames = torch.rand(4, 3, 8, 8)
    found, which = distinct_frames(frames)
    assert found is frames and which == [0, 1, 2, 3]


def test_the_change_of_a_patch_is_the_root_mean_square_of_its_pixels():
    frames = torch.zeros(2, 3, 9, 9)  # two patches of four a side, and a rest that no patch has
    frames[1, 0, 0, 5] = 0.6
    frames[1, :, 8, 8] = 1
    patches, change = patches_of(frames, 4), (0.36 / 48) ** 0.5
    assert patches.shape == (2, 4, 48) and not plan_reuse(patches, change * 1.001, (2, 2)).changed
    (part,) = plan_reuse(patches, change * 0.999, (2, 2)).changed
    assert part.frames == [1] and part.patches.tolist()[0][0] == 1 and part.patches.shape == (1, 4)


def still(frames: int, changes: dict[int, int]) -> torch.Tensor:
    """(F, 64, 48) of 64 patches of four by four, of which so many differ from those of every other frame."""
    pixels = torch.zeros(frames, 3, 32, 32)
    for frame, patches in changes.items():
        for patch in range(patches):
            row, column = divmod(patch, 8)
            pixels[frame, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.1 * frame
    return patches_of(pixels, 4)


def test_changed_patches_and_their_neighbours_are_those_of_the_plan_in_counts_of_few_sizes():
    plan = plan_reuse(still(6, {1: 3, 2: 0, 3: 9, 4: 8, 5: 32}), 0.05, (8, 8))
    assert plan.keys == [0] and plan.key_of == [0] * 6
    assert [(part.frames, part.patches.shape) for part in plan.changed] == [
        ([1], (1, 8)), ([4], (1, 16)), ([3], (1, 20)), ([5], (1, 40)),
    ]  # fmt: skip
    assert {*plan.changed[0].patches[0].tolist()} == {0, 1, 2, 3, 8, 9, 10, 11}
    assert {*range(18)} < {*plan.changed[2].patches[0].tolist()}  # two more in the rounding
    assert all(len({*row.tolist()}) == len(row) for part in plan.changed for row in part.patches)
    assert plan.patches(64) == 64 + 8 + 16 + 20 + 40
    sources, own = plan.sources(64, torch.device("cpu")), torch.arange(6 * 64).view(6, 64)
    assert int((sources == own).sum()) == plan.patches(64)  # those stand for themselves, the key frame's for the others
    assert torch.equal(torch.where(sources == own, own % 64, sources), own % 64)


def test_a_frame_that_changed_by_more_than_half_is_a_key_frame():
    plan = plan_reuse(still(5, {2: 33, 3: 33}), 0.05, (8, 8))
    assert plan.keys == [0, 2, 3, 4] and plan.key_of == [0, 0, 1, 2, 3]


def test_a_small_change_adds_up_against_the_key_frame():
    """Each frame differs from the one before by less than the bound, and from the key frame by more in the end."""
    patches = (0.02 * torch.arange(6.0))[:, None, None].expand(6, 64, 48)
    assert plan_reuse(patches, 0.05, (8, 8)).keys == [0, 3]


def test_still_frames_have_a_key_frame_from_time_to_time():
    patches = torch.zeros(2 * KEY_EVERY + 1, 64, 48)
    patches[3:] = 1
    plan = plan_reuse(patches, 0.05, (8, 8))
    assert plan.keys == [0, 3, KEY_EVERY, 2 * KEY_EVERY] and not plan.changed


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.1", True, float("nan")])
def test_a_bound_that_is_none_is_refused(value):
    with pytest.raises(AOTError, match="tower_reuse is .*; use a "):
        AOTConfig(tower_reuse=value)


def test_every_method_takes_it_and_it_travels_with_the_settings():
    for config in (AOTConfig(tower_reuse=0.02), AOTConfig(method="evs", tower_reuse=0), AOTConfig.preset("paper")):
        assert AOTConfig.from_dict(config.to_dict()) == config
    assert AOTConfig().tower_reuse is None and AOTConfig(method="evs", tower_reuse=0).tower_reuse == 0.0
