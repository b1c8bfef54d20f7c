"""What a video's frames repeat, so that the vision tower need not see it twice: whole frames and single patches."""

from dataclasses import dataclass

import torch
from torch.nn.functional import max_pool2d, unfold

KEY_EVERY = 8  # frames: every eighth is a key frame, so that no patch keeps features for longer
MOST_CHANGED = 0.5  # of a frame's patches; a frame that changed more becomes a key frame
SIZES = 16  # counts of computed patches are rounded up to sixteenths of a frame, so that few shapes come up


def distinct_frames(frames: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """The frames (F, ...) without repetitions, in order, and which of them each of the F is.

    Frames that are equal to the bit count as one. Waits for the device.
    """
    sums = frames.contiguous().flatten(1).view(torch.uint8).sum(1).tolist()  # only frames of one sum can be equal
    firsts: dict[int, list[int]] = {}
    kept: list[int] = []
    which = []
    for number, total in enumerate(sums):
        alike = firsts.setdefault(total, [])
        place = next((place for place in alike if torch.equal(frames[kept[place]], frames[number])), len(kept))
        if place == len(kept):
            kept.append(number)
            alike.append(place)
        which.append(place)
    return (frames if len(kept) == len(which) else frames[kept]), which


@dataclass(frozen=True)
class ChangedPatches:
    """The patches (K, n) int64 that are to be computed of K frames, n of each. frames: their numbers."""

    frames: list[int]
    patches: torch.Tensor


@dataclass(frozen=True)
class ReusePlan:
    """Which frames are computed whole, and of the others which patches.

    keys: numbers of the key frames. key_of: for each frame, which of these it is compared with. changed: frames with
    changed patches; frames in none of them, and no keys, show what their key frame shows.
    """

    keys: list[int]
    key_of: list[int]
    changed: list[ChangedPatches]

    def patches(self, per_frame: int) -> int:
        """How many patches are computed."""
        return len(self.keys) * per_frame + sum(part.patches.numel() for part in self.changed)

    def sources(self, per_frame: int, device: torch.device) -> torch.Tensor:
        """(F, N) int64 number, over all frames, of the computed patch that stands for each."""
        shown = torch.tensor([self.keys[key] for key in self.key_of], device=device)
        sources = shown[:, None] * per_frame + torch.arange(per_frame, device=device)
        for part in self.changed:
            frames = torch.tensor(part.frames, device=device)[:, None]
            sources[frames, part.patches] = frames * per_frame + part.patches
        return sources


def patches_of(frames: torch.Tensor, side: int) -> torch.Tensor:
    """(F, N, C·side²) pixels of each patch of (F, C, S, S) frames, in raster order.

    What is left of a side beyond whole patches is not looked at.
    """
    return unfold(frames, side, stride=side).transpose(1, 2)


def plan_reuse(patches: torch.Tensor, bound: float, grid: tuple[int, int]) -> ReusePlan:
    """Which patches of frames (F, N, pixels) stay as they are in a key frame. grid: rows and columns of the N patches.

    A patch changed whose pixels differ from the key frame's by a root mean square above ``bound``. Key frames are those
    whose number KEY_EVERY divides, and those in which more than MOST_CHANGED of the patches changed. Computed are the
    changed patches and their eight neighbours, which show most of what changed beside them. Their number is rounded
    up, by those that changed most of the others. Waits for the device once a key frame.
    """
    total = patches.shape[1]
    step = -(-total // SIZES)
    keys: list[int] = []
    key_of: list[int] = []
    by_size: dict[int, list[tuple[int, torch.Tensor]]] = {}
    while len(key_of) < len(patches):
        start = len(key_of)
        following = patches[start + 1 : (start // KEY_EVERY + 1) * KEY_EVERY]
        change = (following.float() - patches[start].float()).square().mean(-1).sqrt()
        changes = change > bound
        near = max_pool2d(changes.float().unflatten(1, (1, *grid)), 3, stride=1, padding=1).flatten(1) > 0
        rank = change + bound * near  # one that is not near changed by no more than bound
        counts = torch.stack([changes.sum(1), near.sum(1)], dim=1).tolist()
        key_of.append(len(keys))
        keys.append(start)
        for row, (different, count) in zip(rank, counts, strict=True):
            if different > MOST_CHANGED * total:
                break
            if count:
                size = min(total, -(-count // step) * step)
                by_size.setdefault(size, []).append((len(key_of), row.topk(size).indices))
            key_of.append(key_of[-1])
    changed = [
        ChangedPatches([number for number, _ in rows], torch.stack([places for _, places in rows]))
        for _, rows in sorted(by_size.items())
    ]
    return ReusePlan(keys, key_of, changed)
