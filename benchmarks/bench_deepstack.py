"""Should rows of earlier tower layers (DeepStack) be merged as the tokens are, or stay those of the kept places?

A Qwen3-VL adds such rows to its first language layers. The embedded model's trained tower stands in for its tower: rows
are hidden states of layers inside it, pooled as its features are. Of each drawn clip the method keeps a share of the
tokens; then the rows of the kept places stay, or take what the plan carries to them, by the formula and cap of the
tokens. Both are compared with what all tokens give:

- mean: the cosine of the clip's mean row;
- attention: the cosine of what attention reads from the rows, with the (merged) tokens of the kept places as keys and
  tokens of the clip as queries;
- facts: the average precision of a linear read-out (ridge) of the colours and shapes shown, trained on mean rows of all
  tokens of other clips.

    python -m benchmarks.bench_deepstack --clips 100 --retention 0.1
"""

import argparse
import json
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from aot import AOTConfig, compress, pool_tokens
from aot.deepstack import merge_deepstack
from aot_tiny.drawing import SHAPES
from aot_tiny.shapes.clips import COLORS, TIMES, Clip, render, sample_clip
from benchmarks.models import make_model
from llava.model.llava_arch import pool_of

TRAINED, SEED = 300, 50_000  # clips that the read-out of facts is fitted to; the first of their seeds


def facts(clip: Clip) -> np.ndarray:
    """(colours and shapes,) 1 for what is shown."""
    shown = {thing.color for thing in clip.things} | {thing.shape for thing in clip.things}
    return np.array([float(word in shown) for word in (*COLORS, *SHAPES)])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--levels", type=int, nargs="*", help="tower layers, from 0")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, config = make_model("tiny", torch.device("cpu")), AOTConfig(retention=options.retention)
    model.config.aot = AOTConfig()
    tower, pool = model.get_vision_tower(), pool_of(model.config)
    # as Qwen3-VL's 8, 16 and 24 of 27
    levels = options.levels or sorted({round(tower.num_layers * share) - 1 for share in (0.3, 0.6, 0.9)})
    hidden: dict[int, torch.Tensor] = {}
    for level in levels:
        tower.vision_tower.vision_model.encoder.layers[level].register_forward_hook(
            lambda module, args, output, level=level: hidden.update({level: output})
        )

    def encode(clip: Clip):
        """(VideoFeatures, rows (T·P, D) of each level)."""
        pixels = tower.image_processor.preprocess(list(render(clip, TIMES, size=96)), return_tensors="pt")
        video = model.encode_video(pixels["pixel_values"])
        return video, [pool_tokens(hidden[level], video.grid, pool).flatten(0, 1) for level in levels]

    # the read-out of facts, from all tokens
    clips = [sample_clip(SEED + number) for number in range(TRAINED)]
    means = [[rows.mean(0).double().numpy() for rows in encode(clip)[1]] for clip in clips]
    truth = np.stack([facts(clip) for clip in clips])
    readouts = [
        make_pipeline(StandardScaler(), Ridge(alpha=10)).fit(np.stack(level), truth)
        for level in zip(*means, strict=True)
    ]
    # what is left of other clips
    cosines: dict[tuple[int, str], list] = {}
    scores: dict[tuple[int, str], list] = {}
    clips = [sample_clip(SEED + TRAINED + number) for number in range(options.clips)]
    for clip in clips:
        video, rows_of_levels = encode(clip)
        result = compress(video.features, video.shallow, video.deep, config, pool=pool, grid=video.grid, trace=True)
        tokens = pool_tokens(video.features, video.grid, pool).flatten(0, 1)
        queries = tokens[torch.randperm(len(tokens))[:64]]
        for level, readout, rows in zip(levels, readouts, rows_of_levels, strict=True):
            attended = scaled_dot_product_attention(queries, tokens, rows)
            for name, left, keys in (
                ("all", rows, tokens),
                ("stay", merge_deepstack(replace(result, trace=None), rows), result.tokens),
                ("merged", merge_deepstack(result, rows), result.tokens),
            ):
                mean, read = left.mean(0), scaled_dot_product_attention(queries, keys, left)
                found = [cosine_similarity(mean, rows.mean(0), dim=0), cosine_similarity(read, attended).mean()]
                cosines.setdefault((level, name), []).append([float(value) for value in found])
                scores.setdefault((level, name), []).append(readout.predict(mean[None].double().numpy())[0])
    truth = np.stack([facts(clip) for clip in clips])
    for (level, name), values in cosines.items():
        mean, attention = np.mean(values, axis=0).round(4).tolist()
        precision = round(average_precision_score(truth, np.stack(scores[level, name]), average="weighted"), 4)
        line = {"mean cosine": mean, "attention cosine": attention, "facts": precision}
        print(json.dumps({"level": level, "rows": name, **line}))


if __name__ == "__main__":
    main()
