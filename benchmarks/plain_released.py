"""The released way of working in plain PyTorch, to compare times with: whole attention maps, a loop over frames and
windows that reads numbers back, the cosine of all pairs at once. Its results equal the preset "released".
"""

import math

import torch
import torch.nn.functional as F

from aot import AOTConfig, pool_tokens


def plain_released(
    features: torch.Tensor,
    maps: list[torch.Tensor],
    layers: tuple[int, int],
    config: AOTConfig,
    *,
    grid: tuple[int, int],
    pool: str,
    clips: list[int],
) -> torch.Tensor:
    """Tokens (S, D) float32, without newlines.

    features: (T, N, D). maps: attention weights (T, heads, N, N) of every tower layer. layers: the shallow and
    the deep one.
    """
    shallow, deep = (maps[layer].float().mean(dim=1).sum(dim=1) for layer in layers)
    anchors = [frame_anchors(shallow[t], deep[t], grid, config) for t in range(len(features))]
    merged = intra_frame(features.float(), anchors, grid, config)
    frames = []
    for t, anchor in enumerate(anchors):
        full, mask = features[t].float().clone(), torch.zeros(features.shape[1], device=features.device)
        full[anchor], mask[anchor] = merged[t], 1.0
        kept = pool_tokens(mask[None, :, None], grid, pool)[0, :, 0] >= 0.5
        frames.append(pool_tokens(full[None], grid, pool)[0][kept])
    tokens, start = [], 0
    for length in clips:
        tokens += clip_tokens(frames[start : start + length], config)
        start += length
    return torch.cat(tokens)


def frame_anchors(shallow: torch.Tensor, deep: torch.Tensor, grid: tuple[int, int], config: AOTConfig) -> torch.Tensor:
    """Ascending anchors of one frame: the best of each window, then the best of the others."""
    height, width = grid
    local = int(config.num_anchors * (1 - config.global_ratio))
    chosen = []
    for window in range(9):
        members = [
            row * width + column
            for row in range(height)
            for column in range(width)
            if (row * 3 // height, column * 3 // width) == divmod(window, 3)
        ]
        best = shallow[members].topk(min(local // 9, len(members))).indices
        chosen += [members[i] for i in best.tolist()]
    left = deep.clone()
    left[chosen] = -torch.inf
    chosen += left.topk(config.num_anchors - local).indices.tolist()
    return torch.tensor(sorted(chosen), device=deep.device)


def intra_frame(
    features: torch.Tensor, anchors: list[torch.Tensor], grid: tuple[int, int], config: AOTConfig
) -> list[torch.Tensor]:
    """Merged anchors of every frame."""
    place = torch.cartesian_prod(*(torch.linspace(0, 1, side, device=features.device) for side in grid))  # (N, 2)
    costs, cosines, others = [], [], []
    for frame, anchor in zip(features, anchors, strict=True):
        other = torch.tensor(sorted(set(range(len(frame))) - set(anchor.tolist())), device=frame.device)
        cosine = F.cosine_similarity(frame[other][:, None], frame[anchor][None], dim=-1)
        distance = (place[other][:, None] - place[anchor][None]).norm(dim=-1)
        costs.append(1 - cosine + config.spatial_weight * distance)
        cosines.append(cosine)
        others.append(other)
    plans = sinkhorn(torch.stack(costs), config)
    merged = []
    for frame, anchor, other, cosine, plan in zip(features, anchors, others, cosines, plans, strict=True):
        own, rest = frame[anchor], frame[other]
        strength = config.merge_strength
        soft = (own + strength * plan.T @ rest) / (1 + strength * plan.sum(0)).unsqueeze(1)
        hard, count = own.clone(), torch.ones(len(anchor), device=frame.device)
        for i, j in enumerate(cosine.argmax(dim=1).tolist()):
            hard[j] += rest[i]
            count[j] += 1
        merged.append((1 - config.hard_assignment) * soft + config.hard_assignment * hard / count.unsqueeze(1))
    return merged


def sinkhorn(cost: torch.Tensor, config: AOTConfig) -> torch.Tensor:
    """Plans (B, M, K) of total mass 1; one mean over all problems decides when all stop."""
    gibbs = torch.exp(-cost / config.epsilon)
    rows, columns = cost.shape[1:]
    row, column = torch.ones_like(cost[:, :, 0]), torch.ones_like(cost[:, 0])
    for _ in range(config.iterations):
        before = row
        row = (1 / rows) / (gibbs @ column.unsqueeze(-1)).squeeze(-1)
        column = (1 / columns) / (gibbs.mT @ row.unsqueeze(-1)).squeeze(-1)
        if (row - before).abs().mean().item() < config.tolerance:
            break
    return row.unsqueeze(-1) * gibbs * column.unsqueeze(1)


def clip_tokens(frames: list[torch.Tensor], config: AOTConfig) -> list[torch.Tensor]:
    """What one clip emits: the first frame, the dynamic tokens of the others, the updated first frame."""
    first = anchors = frames[0]
    tokens = [first]
    for step, frame in enumerate(frames[1:], start=1):
        cost = 1 - F.cosine_similarity(frame[:, None], anchors[None], dim=-1)
        cost = (cost - cost.min()) * (1 - math.exp(-(step**2) / (2 * config.temporal_sigma**2)))
        plan = sinkhorn(cost[None], config)[0]
        share = plan / plan.sum(dim=1, keepdim=True)
        certainty = share.amax(dim=1).double()
        dynamic = certainty < torch.quantile(certainty, config.keep_ratio)
        tokens.append(frame[dynamic])
        share, rest = share[~dynamic], frame[~dynamic]
        scale = config.inter_scale
        anchors = (anchors + scale * share.T @ rest) / (1 + scale * share.sum(0)).unsqueeze(1)
    return tokens + [anchors] if len(frames) > 1 else tokens
