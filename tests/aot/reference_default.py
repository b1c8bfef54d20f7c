"""The default method in plain float64 numpy, one loop a sentence of docs/method.md; nothing of `aot` is used.

Slow and readable: frames, places and clips are walked one at a time. It exists to be compared with `aot.compress`.
"""

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np


@dataclass(frozen=True)
class Settings:
    """The settings of the default preset, with their values of docs/method.md."""

    retention: float = 0.1
    clips: str = "uniform"
    clip_length: int | None = None
    clip_threshold: float = 0.9
    clip_cuts: int = 8
    global_ratio: float = 1.0
    attention_power: float = 0.0
    change_power: float = 0.25
    spatial_weight: float = 0.25
    temporal_weight: float = 0.2
    cost_channels: int = 512
    epsilon: float = 0.01
    iterations: int = 100
    sinkhorn_stop: str = "problem"
    tolerance: float = 1e-3
    uniform_marginal: float = 0.0
    merge_strength: float = 1.0
    merge_cap: float = 0.5


@dataclass(frozen=True)
class Result:
    """index: (S,) flat token indices t·P + row·W + column. local: (S,) bool. tokens: (S, D). mass: (S,)."""

    index: np.ndarray
    local: np.ndarray
    tokens: np.ndarray
    mass: np.ndarray
    clips: list[int]


def reduce_video(features, shallow, deep, settings, *, grid, pool):
    """features: (T, N, D). shallow, deep: (T, N). grid: tower (H, W). pool: "bilinear", "average", "max" or None."""
    features, shallow, deep = (np.asarray(x, dtype=np.float64) for x in (features, shallow, deep))
    tokens = pooled(features, grid, pool)
    shallow, deep = pooled(shallow[..., None], grid, pool)[..., 0], pooled(deep[..., None], grid, pool)[..., 0]
    frames, per_frame = tokens.shape[:2]
    grid = pooled_grid(grid, pool)
    total = budget(settings.retention, frames * per_frame)
    lengths = clip_lengths(features, per_frame, total, settings)
    if total == frames * per_frame:
        everything = np.arange(total)
        return Result(everything, everything < 0, tokens.reshape(total, -1), np.ones(total), lengths)
    compared = sketched(tokens, settings.cost_channels)
    change = np.maximum(frame_change(compared), 1e-6) ** settings.change_power
    by_shallow = relative(shallow) ** settings.attention_power * change
    by_deep = relative(deep) ** settings.attention_power * change
    counts = clip_budgets(lengths, per_frame, settings.retention)
    bound = 2 + math.sqrt(2) * settings.spatial_weight + (max(lengths) - 1) * settings.temporal_weight
    stride = choice_stride(per_frame, settings)
    parts, start = [], 0
    for length, count in zip(lengths, counts, strict=True):
        clip = slice(start, start + length)
        cost = clip_cost(compared[clip], grid, settings)
        local = local_anchors(cost, by_shallow[clip].ravel(), grid, length, count, bound, settings)
        rest = global_anchors(cost, by_deep[clip].ravel(), local, count - len(local), bound, stride)
        kept = np.array(sorted(local + rest))
        merged, mass = carry(tokens[clip].reshape(length * per_frame, -1), cost, kept, bound, settings)
        parts.append((start * per_frame + kept, np.isin(kept, local), merged, mass))
        start += length
    return Result(*(np.concatenate(part) for part in zip(*parts, strict=True)), lengths)


def pooled_grid(grid, pool):
    height, width = grid
    if pool is None:
        return grid
    return (math.ceil(height / 2), math.ceil(width / 2)) if pool == "bilinear" else (height // 2, width // 2)


def pooled(values, grid, pool):
    """(T, N, D) -> (T, P, D): bilinear samples at the centres of a grid of ⌈H/2⌉x⌈W/2⌉, or 2x2 averages or maxima."""
    if pool is None:
        return values
    maps = values.reshape(len(values), *grid, -1)
    height, width = pooled_grid(grid, pool)
    if pool == "bilinear":
        maps = sampled(sampled(maps, 1, height), 2, width)
    else:
        maps = maps[:, : 2 * height, : 2 * width].reshape(len(values), height, 2, width, 2, -1)
        maps = maps.mean((2, 4)) if pool == "average" else maps.max((2, 4))
    return maps.reshape(len(values), height * width, -1)


def sampled(maps, axis, size):
    """One axis resampled to `size` cells, each at its centre, between the two cells that lie around it."""
    given = maps.shape[axis]
    place = np.clip((np.arange(size) + 0.5) * given / size - 0.5, 0, given - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, given - 1)
    part = (place - low).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    return (1 - part) * maps.take(low, axis) + part * maps.take(high, axis)


def budget(retention, tokens):
    return max(1, math.floor(Decimal(str(retention)) * tokens))


def usual_length(per_frame, settings):
    """Frames of a clip: four, fewer where these hold more than 800 tokens, or clip_length."""
    return settings.clip_length or max(1, min(4, 800 // per_frame))


def clip_lengths(features, per_frame, total, settings):
    """Step 1: runs of the usual length, the last one shorter; dynamic ones are cut to it; at most `total` of them."""
    length = usual_length(per_frame, settings)
    runs = [len(features)]
    if settings.clips == "dynamic":
        runs = dynamic_runs(features.mean(1), settings)
    if settings.clips == "uniform" or settings.clip_length is None:
        runs = [min(length, run - start) for run in runs for start in range(0, run, length)]
    if len(runs) > total:
        edges = [group * len(runs) // total for group in range(total + 1)]
        runs = [sum(runs[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return runs


def dynamic_runs(means, settings):
    """Cut after frames whose mean is less like the next one's than clip_threshold, and at the clip_cuts - 1 lowest."""
    likeness = [1 - distance(a, b) for a, b in zip(means, means[1:], strict=False)]
    lowest = sorted(range(len(likeness)), key=lambda t: likeness[t])[: settings.clip_cuts - 1]
    ends = [t + 1 for t, value in enumerate(likeness) if value < settings.clip_threshold or t in lowest]
    return [end - start for start, end in zip([0, *ends], [*ends, len(means)], strict=True)]


def clip_budgets(lengths, per_frame, retention):
    """After each clip ⌊r·frames so far·P⌋ tokens are out, 1 at least; a clip without one takes it from the fullest."""
    out, counts, frames = 0, [], 0
    for length in lengths:
        frames += length
        counts.append(budget(retention, frames * per_frame) - out)
        out += counts[-1]
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def sketched(tokens, channels):
    """(T, P, D) -> (T, P, channels): channel d, with its sign, is added to d mod `channels`; narrow tokens stay."""
    if tokens.shape[-1] < 2 * channels:
        return tokens
    sums = np.zeros((*tokens.shape[:2], channels))
    for d in range(tokens.shape[-1]):
        sums[..., d % channels] += channel_sign(d) * tokens[..., d]
    return sums


def channel_sign(d):
    """1 where MurmurHash3's finaliser of d + 1 is even, else -1."""
    h = d + 1
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return -1 if (h ^ h >> 16) % 2 else 1


def distance(a, b):
    """1 - cos; a token of zeros has no direction, and cos is 0."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return 1 - (a @ b / lengths if lengths > 0 else 0.0)


def frame_change(tokens):
    """(T, P): 1 - cos with the same place one frame earlier; in frame 0 with the mean of its tokens of length 1."""
    change = np.zeros(tokens.shape[:2])
    lengths = np.linalg.norm(tokens[0], axis=1, keepdims=True)
    mean = (tokens[0] / np.where(lengths > 0, lengths, 1)).mean(0)
    for t, frame in enumerate(tokens):
        for i, token in enumerate(frame):
            change[t, i] = distance(token, tokens[t - 1, i] if t else mean)
    return change


def relative(importance):
    """Divided by its frame's mean; a frame without any is 1 everywhere."""
    mean = importance.mean(1, keepdims=True)
    return np.where(mean > 0, importance / np.where(mean > 0, mean, 1), 1)


def clip_cost(tokens, grid, settings):
    """Step 2, (n, n) between all tokens of a clip (L, P, D)."""
    length, per_frame, width = tokens.shape
    norms = np.linalg.norm(tokens, axis=2, keepdims=True)
    units = (tokens / np.where(norms > 0, norms, 1)).reshape(-1, width)
    rows, columns = np.linspace(0, 1, grid[0]), np.linspace(0, 1, grid[1])
    place = np.array([(rows[i // grid[1]], columns[i % grid[1]]) for i in range(per_frame)])
    place, time = np.tile(place, (length, 1)), np.arange(length).repeat(per_frame)
    far = np.sqrt(((place[:, None] - place) ** 2).sum(-1))
    apart = np.abs(time[:, None] - time)
    return 1 - units @ units.T + settings.spatial_weight * far + settings.temporal_weight * apart


def choice_stride(per_frame, settings):
    """A step looks at every s-th token of a clip, s = max(1, min(8, ⌊n/64⌋)), n the tokens of a usual clip."""
    return max(1, min(8, usual_length(per_frame, settings) * per_frame // 64))


def window(place, grid):
    """Which of the 3x3 near-equal windows of the frame a place lies in."""
    return 3 * (place // grid[1] * 3 // grid[0]) + place % grid[1] * 3 // grid[1]


def local_anchors(cost, weight, grid, length, count, bound, settings):
    """Step 4: in each window of the clip ⌊⌊count·(1 - g)⌋ / 9⌋, by what they explain of the window alone."""
    each = int(count * (1 - settings.global_ratio)) // 9
    chosen = []
    for number in range(9):
        member = [i for i in range(len(cost)) if window(i % (grid[0] * grid[1]), grid) == number]
        inside = cost[np.ix_(member, member)]
        left = np.full(len(member), bound)
        picked = greedy(inside, weight[member], left, set(range(len(member))), min(each, len(member)), 1)
        chosen += [member[i] for i in picked]
    return chosen


def global_anchors(cost, weight, local, count, bound, stride):
    """Step 4: the rest, by what they explain of the clip beyond the local ones."""
    left = cost[local].min(0) if local else np.full(len(cost), bound)
    return greedy(cost, weight, left, set(range(len(cost))) - set(local), count, min(stride, len(cost)))


def greedy(cost, weight, left, free, count, stride):
    """`count` of the free tokens: step s takes the one that lowers Σ w·left most among s, s + stride, …

    One millionth of a token's share of the largest weight is added to what it gains, and of equals the first is taken.
    A step that finds none is passed over; what is missing in the end are the heaviest of the free ones.
    """
    if not count:
        return []
    tie = 1e-6 * weight / max(weight.max(), np.finfo(np.float64).tiny)
    chosen, free, left = [], set(free), left.copy()
    for step in range(count):
        looked = [j for j in range(step % stride, len(cost), stride) if j in free]
        if looked:
            gains = [weight @ np.maximum(left - cost[:, j], 0) + tie[j] for j in looked]
            best = looked[int(np.argmax(gains))]
            chosen.append(best)
            free.remove(best)
            left = np.minimum(left, cost[:, best])
    return chosen + sorted(free, key=lambda j: (-weight[j], j))[: count - len(chosen)]


def carry(tokens, cost, kept, bound, settings):
    """Steps 5 and 6: what is not kept is carried to the kept tokens of its clip. Tokens (K, D) and masses (K,)."""
    others = np.setdiff1d(np.arange(len(tokens)), kept)
    to_kept = cost[np.ix_(others, kept)]
    nearest = np.exp((to_kept.min(1, keepdims=True) - to_kept) / settings.epsilon)
    plan = nearest / nearest.sum(1, keepdims=True)
    if settings.uniform_marginal > 0 and len(others):
        even = len(others) / len(kept)
        demand = settings.uniform_marginal * even + (1 - settings.uniform_marginal) * plan.sum(0)
        plan = sinkhorn(to_kept, demand, settings, shifted=bound <= 80 * settings.epsilon)
    mass = plan.sum(0)
    pulled = settings.merge_strength * mass
    share = np.minimum(settings.merge_cap, pulled / (1 + pulled))[:, None]
    mean = plan.T @ tokens[others] / np.where(mass > 0, mass, 1)[:, None]
    return tokens[kept] + np.where(mass[:, None] > 0, share * (mean - tokens[kept]), 0), 1 + mass


def sinkhorn(cost, demand, settings, *, shifted):
    """Suppliers of mass 1. Scalings start at 1; rows are scaled, then columns, until no row is off by `tolerance`.

    shifted: every row of the cost has a minimum of 0 at the start. Columns have it, since kept tokens are rows as well.
    """
    if shifted:
        cost = cost - cost.min(1, keepdims=True)
    kernel = np.exp(-cost / settings.epsilon)
    row, column = np.ones(len(kernel)), np.ones(len(demand))
    for _ in range(settings.iterations):
        if settings.sinkhorn_stop == "problem" and np.abs(row * (kernel @ column) - 1).max() < settings.tolerance:
            break
        row = 1 / (kernel @ column)
        column = demand / (row @ kernel)
    return row[:, None] * kernel * column
