"""CPU time of `aot.compress` as a multiple of one batched matrix product measured in the same run.

    python benchmarks/bench_compress.py

32 frames, 27x27 tokens, width 896, float32, bilinear pooling, default preset at 10 %, against one torch.bmm
of 32 x (603x896)·(896x126). Both run alternately; medians are compared. The result is checked before any time
is reported. The last line is JSON; the exit status is 1 when the ratio is above --limit.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import torch

from aot import AOTConfig, CompressedVideo, TokenKind, compress, pool_tokens

FRAMES, GRID, WIDTH = 32, (27, 27), 896


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames that resemble each other, with two importance maps."""
    generator = torch.Generator().manual_seed(0)
    tokens = GRID[0] * GRID[1]
    still = torch.randn(1, tokens, WIDTH, generator=generator)
    features = still + 0.3 * torch.randn(FRAMES, tokens, WIDTH, generator=generator)
    shallow, deep = torch.rand(2, FRAMES, tokens, generator=generator)
    return features, shallow, deep


def check(video: CompressedVideo, features: torch.Tensor) -> None:
    """Stops the benchmark unless counts, order, masses and tokens are right."""
    pooled = pool_tokens(features, GRID, "bilinear").double()
    height, width = video.grid
    index = video.frame * height * width + video.position[:, 0] * width + video.position[:, 1]
    expected, _ = video.config.token_count(FRAMES, height * width)
    own = pooled.flatten(0, 1)[index]
    cap = video.config.merge_cap
    # a merged token is (1 - s)·own + s·mean of others, s <= cap, and no other is longer than the longest
    bound = cap * (own.norm(dim=1) + pooled.norm(dim=-1).max()) + 1e-3
    problems = {
        "token count": len(video.tokens) != expected or bool((video.kind == TokenKind.NEWLINE).any()),
        "order": not bool((index.diff() > 0).all()),
        "mass": abs(float(video.mass.double().sum()) / video.tokens_before - 1) > 1e-4,
        "tokens": not bool(((video.tokens - own).norm(dim=1) <= bound).all()),
        "finite": not bool(video.tokens.isfinite().all()),
        "repeatable": not torch.equal(video.tokens, run(*make_inputs()).tokens),
    }
    wrong = [name for name, failed in problems.items() if failed]
    if wrong:
        sys.exit(f"The result is wrong ({', '.join(wrong)}); no time is reported.")


def run(features: torch.Tensor, shallow: torch.Tensor, deep: torch.Tensor) -> CompressedVideo:
    return compress(features, shallow, deep, AOTConfig(retention=0.1))


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=5.0, help="largest ratio that passes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    inputs = make_inputs()
    left, right = torch.randn(32, 603, WIDTH), torch.randn(32, WIDTH, 126)
    check(run(*inputs), inputs[0])
    torch.bmm(left, right)
    ours, product = [], []
    for _ in range(arguments.repeats):
        ours.append(seconds(lambda: run(*inputs)))
        product.append(seconds(lambda: torch.bmm(left, right)))
    ratio = statistics.median(ours) / statistics.median(product)
    print(f"compress {statistics.median(ours) * 1e3:.1f} ms, bmm {statistics.median(product) * 1e3:.1f} ms")
    print(
        json.dumps(
            {
                "benchmark": "compress",
                "compress_ms": round(statistics.median(ours) * 1e3, 2),
                "bmm_ms": round(statistics.median(product) * 1e3, 2),
                "ratio": round(ratio, 3),
                "limit": arguments.limit,
                "repeats": arguments.repeats,
                "threads": arguments.threads,
                "processor": platform.processor() or platform.machine(),
                "torch": torch.__version__,
            }
        )
    )
    return 0 if ratio <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
