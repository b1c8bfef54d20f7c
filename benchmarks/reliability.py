"""Tries every odd input and writes docs/reliability.md: `python -m benchmarks.reliability`.

--examples: damaged files tried beside the named ones. Ends with exit code 1 when an input gave a wrong frame, a
crash, or anything else than a video or one sentence. --load-only: renews the section on load alone, from the
docs/images/load_*.json that load_web.py wrote.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.long_files import FRAMES as LONG_FRAMES
from benchmarks.long_files import LONG
from benchmarks.odd_files import CUT, FRAMES, READABLE, REFUSED, encode
from benchmarks.try_files import Outcome, attempt, cut_file, try_file

OUT = Path(__file__).parents[1] / "docs" / "reliability.md"
IMAGES = OUT.with_name("images")
SEEDS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "flv": "flv", "ts": "libx264"}

INTRODUCTION = """# Any file

Written by `python -m benchmarks.reliability`; do not edit by hand.

A video is either read, and then every frame shown is the one asked for, or refused in one sentence that says
what to do; nothing is lost in silence. Videos longer than half an hour are not read through where header and constant
rate allow it: eight frames of a ten-hour file touch less than a fifth of its bytes (tests/fuzz). Files whose container
does not state its length (transport streams, MPEG-2, Flash, fragmented MP4, GIF, WMV) cannot be told from shorter ones
when cut: what is there is read, and its last picture may be incomplete.

## Who decodes

PyAV decodes, and Pillow animated WebP and AVIF and folders of pictures. decord is asked only when you ask for it
(`decoder="decord"`). PyAV then still says which frames there are and when, and decord is refused unless all of this
holds: MP4 or Matroska by the first bytes; one video stream, of a codec that is known to agree; every packet shows one
frame and has a time of its own; no frame is hidden by an edit list; every keyframe decodes alone; no turn or mirror;
no more than 4K. So a file has one set of frames, times, colours and turns, whoever decodes it.

- **Times** are those of the packets. Where a container has none (raw streams, AVI with B-frames), frames are counted
  at the stated rate. One doubled or missing time leaves the others as they are. Times that cannot be true (not finite,
  falling, all equal, far beyond the stated length, more than an hour a frame) are not believed.
- **Streams**: of several, the default one that moves; a cover or a still picture in front of a film is passed over.
- **Turns and mirrors** follow the display matrix with its signs, to the nearest quarter turn.
- **Colours** are converted by the matrix and range that the stream states, and as BT.601 in limited range where it
  states none, whatever its size, as ffmpeg does. HDR is not mapped to SDR. Transparency is left out.

## What a file may take

| bound | value |
|---|---|
| memory of the process that decodes | 4 GiB of data (Linux: RLIMIT_DATA); beyond it one sentence |
| pixels of a picture that is decoded | 2^26, as 8192x8192; larger ones are refused before they are decoded |
| pixels of a picture that is handed on | 4096x2304 (4K); larger ones are averaged down by a whole factor |
| frames in memory at once | 4 GiB, such as 128 frames of 4K; `open_video` gives them one after another |
| time | `time_limit`, 600 s unless told otherwise; a decoder that hangs is killed |
| files opened | the one that was given: the kernel refuses every other file and socket (RLIMIT_NOFILE) |
| formats | an allow-list of FFmpeg's, recognised by content; the file's name plays no part |
| life | the process ends within a second of its parent, however that ended |

Pipes, devices, sockets and circles of links are refused at once, as videos and in folders of pictures.
tests/serve/test_video_bounds.py tries these, among them playlists of six formats before, in and around a film, names
that are protocols or patterns for FFmpeg, and a QuickTime file whose pictures are in another one.

The pictures of these files carry their number in stripes, so that each frame read is checked. Checkpoints,
settings and prompts are tried by tests/fuzz: no pickle is ever loaded, and damaged files are one sentence.
"""

LOAD = """## Under load

Written by `python benchmarks/load_web.py --questions 200 --clients 8 --output load` (`--page`: the whole page over
HTTP). Every client has a video of its own and asks mixed questions at mixed retentions, all at the same time; the last
one also sends a broken file before each of its questions. Wrong is an answer or a number of kept tokens that differs
from that of a session nobody shares. Memory is that of the process that holds the model; its growth is the mean over
the last 35 % of the answers less the mean over the 35 % before them, the first 30 % being the warm-up. Seconds and
waits were taken on a machine busy with other work and say little; answers and memory do not depend on it.
"""


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """The same file with one to twelve places flipped, cut out, repeated or zeroed."""
    content = bytearray(data)
    for _ in range(random.integers(1, 13)):
        place, size, kind = int(random.integers(len(content))), int(random.integers(1, 65)), random.integers(4)
        if kind == 0:
            content[place] ^= int(random.integers(1, 256))
        elif kind == 1 and len(content) > 200:
            del content[place : place + size]
        elif kind == 2:
            content[place:place] = content[place : place + size]
        else:
            content[place : place + size] = bytes(len(content[place : place + size]))
    return bytes(content)


def tell(outcomes: list[Outcome]) -> str:
    """What became of a file at each cut, in order."""
    parts = ["refused" if o.read is None else f"{o.read}" if o.right else "WRONG" for o in outcomes]
    return ", ".join(parts)


def reasons(outcomes: list[Outcome]) -> str:
    """The refusals among them, each sentence once up to its first colon or number."""
    said = {o.said.split(" is ", 1)[-1].split(":")[0].split("(")[0].strip() for o in outcomes if o.read is None}
    return "; ".join(sorted(said))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load-only", action="store_true")
    options = parser.parse_args()
    if options.load_only:
        before = OUT.read_text(encoding="utf-8").partition(LOAD.splitlines()[0])[0]
        OUT.write_text(before + "\n".join(under_load()) + "\n", encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.workers) as pool:
        return report(Path(name), options.examples, pool)


def report(folder: Path, examples: int, pool: ThreadPoolExecutor) -> int:
    """Writes the page; 1 when something was wrong."""

    def each(kind: str, files: dict[str, tuple], decoder: str = "auto") -> list[Outcome]:
        """One outcome a file of (name, writer) or (name, writer, first frame, frames)."""

        def one(job: tuple[int, str]) -> Outcome:
            count, label = job
            file, write, first = (*files[label], 0)[:3]
            return try_file(folder / kind / str(count), label, file, write, decoder=decoder, first=first)

        return list(pool.map(one, enumerate(files)))

    lines, wrong = [INTRODUCTION], 0
    rows = {label: (file, write, 0, None) for label, (file, write) in READABLE.items()}
    for title, files in ((f"## Read, {FRAMES} frames", rows), (f"## Read, {LONG_FRAMES} frames, few asked for", LONG)):
        lines += ["", title, "", "| file | by default | decord on request |", "|---|---|---|"]
        for label, first, asked in zip(files, each(title, files), each(title + "d", files, "decord"), strict=True):
            count = files[label][3]
            wrong += not (first.right and asked.right and first.read and count in (None, first.read))
            lines.append(f"| {label} | {first.words} | {asked.words} |")
    lines += ["", "## Refused", "", "| file | said |", "|---|---|"]
    for label, outcome in zip(REFUSED, each("refused", REFUSED), strict=True):
        wrong += outcome.read is not None
        lines.append(f"| {label} | {outcome.said or outcome.words} |")
    lines += ["", f"## Cut at every tenth of its bytes ({FRAMES} frames when whole)", ""]
    lines += ["| container | frames read, from 1/10 to 9/10 | refusals say |", "|---|---|---|"]
    cuts = pool.map(
        lambda j: cut_file(folder / "cut" / str(j[0]), j[1][0], j[1][1], rate=j[1][2]), enumerate(CUT.values())
    )
    for (label, (*_, tells)), outcomes in zip(CUT.items(), cuts, strict=True):
        wrong += sum(not o.right or (tells and o.read is not None) for o in outcomes)
        lines.append(f"| {label} | {tell(outcomes)} | {reasons(outcomes)} |")
    lines += ["", f"## {examples} damaged files (bytes flipped, cut out, repeated or zeroed)", ""]
    lines += ["| container | read | refused |", "|---|---:|---:|"]
    lines += [*damaged(folder, examples, pool), "", *under_load()]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{OUT}: {wrong} inputs with a wrong outcome")
    return int(wrong > 0)


def damaged(folder: Path, examples: int, pool: ThreadPoolExecutor) -> list[str]:
    """Rows of the last table; anything but a video or one sentence is raised."""
    for suffix, codec in SEEDS.items():
        encode(folder / f"seed.{suffix}", codec=codec, frames=6)
    random = np.random.default_rng(0)
    jobs = []
    for count in range(examples):
        suffix = [*SEEDS][count % len(SEEDS)]
        path = folder / f"{count}.{suffix}"
        path.write_bytes(damage((folder / f"seed.{suffix}").read_bytes(), random))
        jobs.append(path)
    outcomes = Counter((path.suffix[1:], o.read is None) for path, o in zip(jobs, pool.map(attempt, jobs), strict=True))
    return [f"| {suffix} | {outcomes[suffix, False]} | {outcomes[suffix, True]} |" for suffix in SEEDS]


def under_load() -> list[str]:
    """The section on load: a row and a plot of every run that was kept."""
    lines = [LOAD, "| through | clients | questions | wrong | broken files | not told in one sentence | seconds |"]
    lines[-1] += " median and longest wait, s | memory at the end, MiB | growth, MiB | on |"
    lines += ["|---|" + "---:|" * 9 + "---|"]
    plots = []
    for path in sorted(IMAGES.glob("load_*.json"), reverse=True):
        run = json.loads(path.read_text(encoding="utf-8"))
        cells = [run["through"], run["clients"], run["questions"], len(run["wrong"]), run["broken_files"]]
        cells += [run["broken_not_told"], run["seconds"], f"{run['wait_s']['median']}, {run['wait_s']['longest']}"]
        cells += [f"{run['memory'][-1][1]:.0f}", run["growth_mib"], f"{run['host']}, threads: {run['threads']}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        plots += ["", f"![Memory through the {run['through']}, answer by answer](images/{path.stem}.png)"]
    return lines + plots


if __name__ == "__main__":
    sys.exit(main())
