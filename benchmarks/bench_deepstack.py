"""Should rows of earlier tower layers (DeepStack) be merged as the tokens are, or stay those of the kept places?

A Qwen3-VL adds such rows to its first language layers. The embedded model's trained tower stands in for its tower: rows
are hidden states of layers inside it, pooled as its features are. Of each drawn clip the method keeps a share of the
tokens; then the rows of the kept places stay, or take what the plan carries to them, by the formula and cap of the
tokens. Both are compared with what all tokens give:

- mean: the clip's mean row, relative error and cosine;
- attention: what softmax(q kᵀ/√d) reads from the rows, with the (merged) tokens of the kept places as keys and tokens
  of the clip as queries, relative error and cosine;
- facts: a linear read-out (ridge) of the colours and shapes shown, trained on mean rows of all tokens of other clips;
  average precision.

    python -m benchmarks.bench_deepstack --clips 100 --retention 0.1
"""

import argparse
import json
from dataclasses import replace

import numpy as np
import torch

from aot import AOTConfig, compress, pool_tokens
from aot.integrations.vision_outputs import attention_layers
from aot.rows import merged_rows
from aot_tiny.drawing import SHAPES
from aot_tiny.shapes.clips import COLORS, TIMES, Clip, render, sample_clip
from llava.model.builder import load_pretrained_model
from llava.model.llava_arch import pool_of

TRAINED, SEED = 300, 50_000  # clips that the read-out of facts is fitted to; the first of their seeds


class Rows:
    """Encodes clips: features and importance that the method reads, and rows of layers inside the tower."""

    def __init__(self, levels: list[int] | None):
        _, self.model, self.processor, _ = load_pretrained_model("checkpoints/aot-tiny", torch_dtype="float32")
        self.model.config.aot = AOTConfig()
        tower = self.model.get_vision_tower()
        blocks = len(attention_layers(tower))
        # as Qwen3-VL's 8, 16 and 24 of 27
        self.levels = levels or sorted({round(blocks * share) - 1 for share in (0.3, 0.6, 0.9)})
        self._seen: dict[int, torch.Tensor] = {}
        encoder = next(part.encoder for part in tower.modules() if hasattr(part, "encoder"))
        for level in self.levels:
            encoder.layers[level].register_forward_hook(self._keep(level))

    def _keep(self, level: int):
        def hook(module, args, output):
            self._seen[level] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.no_grad()
    def of(self, clip: Clip):
        """(VideoFeatures, rows (T, P, D) of each level)."""
        frames = render(clip, TIMES, size=96)
        video = self.model.encode_video(self.processor.preprocess(list(frames), return_tensors="pt")["pixel_values"])
        return video, [pool_tokens(self._seen[level], video.grid, pool_of(self.model.config)) for level in self.levels]


def facts(clip: Clip) -> np.ndarray:
    """(colours and shapes,) 1 for what is shown."""
    shown = {thing.color for thing in clip.things} | {thing.shape for thing in clip.things}
    return np.array([float(word in shown) for word in (*COLORS, *SHAPES)])


def attended(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(Q, D) what the queries read."""
    return torch.softmax(queries @ keys.T / keys.shape[-1] ** 0.5, dim=-1) @ values


def closeness(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """Relative error and cosine of vectors (Q, D), means over them."""
    error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    return float(error.mean()), float(torch.cosine_similarity(found, wanted, dim=-1).mean())


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over facts (columns) of the precision at each clip that shows the fact."""
    order = np.argsort(-scores, axis=0)
    hits = np.take_along_axis(truth, order, axis=0)
    precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    return float((precision * hits).sum(0).mean() / hits.sum(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--levels", type=int, nargs="*", help="tower layers, from 0")
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder, config = Rows(options.levels), AOTConfig(retention=options.retention)
    # the read-out of facts, from all tokens
    clips = [sample_clip(SEED + number) for number in range(TRAINED)]
    means = [[rows.mean((0, 1)) for rows in encoder.of(clip)[1]] for clip in clips]
    truth = np.stack([facts(clip) for clip in clips])
    readouts = []
    for level in zip(*means, strict=True):
        x = np.column_stack([torch.stack(level).double().numpy(), np.ones(TRAINED)])
        center, scale = x[:, :-1].mean(0), x[:, :-1].std(0) + 1e-9
        x[:, :-1] = (x[:, :-1] - center) / scale
        readouts.append((center, scale, np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ truth)))
    # what is left of other clips
    found: dict[tuple, list] = {}
    clips = [sample_clip(SEED + TRAINED + number) for number in range(options.clips)]
    for clip in clips:
        video, levels = encoder.of(clip)
        pool = pool_of(encoder.model.config)
        result = compress(video.features, video.shallow, video.deep, config, pool=pool, grid=video.grid, trace=True)
        tokens = pool_tokens(video.features, video.grid, pool).flatten(0, 1)
        queries = tokens[torch.randperm(len(tokens))[:64]]
        for number, rows in enumerate(levels):
            everything = rows.flatten(0, 1)
            wanted = everything.mean(0, keepdim=True), attended(queries, tokens, everything)
            merged = merged_rows(result, everything)
            stay = merged_rows(replace(result, trace=None), everything)
            center, scale, weights = readouts[number]
            for name, left, keys in (
                ("all", everything, tokens), ("stay", stay, result.tokens), ("merged", merged, result.tokens)
            ):  # fmt: skip
                read = left.mean(0, keepdim=True), attended(queries, keys, left)
                x = np.append((read[0][0].double().numpy() - center) / scale, 1) @ weights
                closeness_of = [*closeness(read[0], wanted[0]), *closeness(read[1], wanted[1])]
                found.setdefault((number, name), []).append((closeness_of, x))
    truth = np.stack([facts(clip) for clip in clips])
    for (number, name), values in found.items():
        numbers = np.mean([one for one, _ in values], axis=0).round(4).tolist()
        line = dict(zip(("mean error", "mean cosine", "attention error", "attention cosine"), numbers, strict=True))
        line["facts"] = round(average_precision(np.stack([x for _, x in values]), truth), 4)
        print(json.dumps({"level": encoder.levels[number], "rows": name, **line}))


if __name__ == "__main__":
    main()
