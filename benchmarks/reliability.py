"""Tries every odd input and writes the tables of docs/files.md: `python -m benchmarks.reliability`.

--examples: damaged files tried beside the named ones. Ends with exit code 1 when an input gave a wrong frame, a
crash, or anything else than a video or one sentence. --load-only: renews the table of load alone, from the
docs/images/load_*.json that load_web.py wrote.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.long_files import FRAMES as LONG_FRAMES
from benchmarks.long_files import LONG
from benchmarks.odd_files import CUT, FRAMES, READABLE, REFUSED, TURNS, Writer, encode, number
from llava.eval.tables.markdown import write_section
from llava.video import VideoError, load_video

PAGE = Path(__file__).parents[1] / "docs" / "files.md"
SEEDS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "flv": "flv", "ts": "libx264"}
SHOWN = 8  # frames asked for


@dataclass(frozen=True)
class Outcome:
    """read: frames of the video, None when it was refused. right: every frame shown is the one asked for.

    refusal: its sentence, the path left out.
    """

    read: int | None
    right: bool
    decoder: str
    refusal: str

    @property
    def words(self) -> str:
        if self.read is None:
            return f"refused: {self.refusal}"
        return f"{self.read} frames, {'the right ones' if self.right else 'WRONG ONES'}, {self.decoder}"

    @property
    def in_short(self) -> str:
        """The same without what to do about it; of decord's refusals the reason in brackets alone."""
        return re.sub(r"; .*$", "", re.sub(r"decord cannot read .*\((.*)\)", r"\1", self.words))


def try_read(
    path: Path, *, decoder: str = "auto", turns: int = 0, rate: float | None = None, first: int = 0
) -> Outcome:
    """What `load_video` makes of a file written by odd_files; anything but a video or a VideoError is raised.

    first: number of the first frame shown. rate: frames a second of a cut file, whose numbers then follow from their
    times; the last picture of such a file may be incomplete and is not looked at.
    """
    try:
        video = load_video(path, num_frames=SHOWN, decoder=decoder)
    except VideoError as error:
        text = str(error)
        if "\n" in text or not text.endswith("."):
            raise AssertionError(f"not one sentence: {text!r}") from error
        return Outcome(None, True, "", text.replace(str(path), path.name))
    wanted = np.linspace(0, video.total_frames - 1, SHOWN).astype(int)
    looked = np.ones(SHOWN, bool)
    if rate is not None:
        looked = wanted < video.total_frames - 1
        wanted = np.rint(video.times * rate).astype(int)
    shown = np.array([number(np.rot90(frame, -turns)) - first for frame in video.frames])
    return Outcome(video.total_frames, bool((shown == wanted)[looked].all()), video.decoder, "")


def try_file(folder: Path, label: str, file: str, write: Writer, **settings: object) -> Outcome:
    """Writes a file of odd_files into an empty folder and reads it."""
    folder.mkdir(parents=True)
    write(folder / file)
    return try_read(folder / file, turns=TURNS.get(label, 0), **settings)


def cut_file(
    folder: Path, file: str, write: Writer, *, rate: float, tenths: Sequence[int] = range(1, 10)
) -> list[Outcome]:
    """The same for a file of constant rate cut at tenths of its bytes."""
    folder.mkdir(parents=True)
    path = folder / file
    write(path)
    data = path.read_bytes()
    outcomes = []
    for tenth in tenths:
        path.write_bytes(data[: len(data) * tenth // 10])
        outcomes.append(try_read(path, rate=rate))
    return outcomes


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


def tables(folder: Path, examples: int, pool: ThreadPoolExecutor) -> tuple[list[str], int]:
    """(lines of the page about files, inputs with a wrong outcome)."""
    lines, wrong = [], 0

    def section(title: str, *columns: str, align: str = "---") -> None:
        lines.extend(["", f"## {title}", ""] if lines else [f"## {title}", ""])
        lines.extend([f"| {' | '.join(columns)} |", f"|---|{f'{align}|' * (len(columns) - 1)}"])

    def each(kind: str, files: dict[str, tuple], decoder: str = "auto") -> list[Outcome]:
        """One outcome a file of (name, writer) or (name, writer, first frame, frames)."""

        def one(job: tuple[int, str]) -> Outcome:
            count, label = job
            file, write, first = (*files[label], 0)[:3]
            return try_file(folder / kind / str(count), label, file, write, decoder=decoder, first=first)

        return list(pool.map(one, enumerate(files)))

    rows = {label: (file, write, 0, None) for label, (file, write) in READABLE.items()}
    for title, files in ((f"Read, {FRAMES} frames", rows), (f"Read, {LONG_FRAMES} frames, few asked for", LONG)):
        section(title, "file", "by default", "decord on request")
        for label, first, asked in zip(files, each(title, files), each(title + "d", files, "decord"), strict=True):
            count = files[label][3]
            wrong += not (first.right and asked.right and first.read and count in (None, first.read))
            lines.append(f"| {label} | {first.in_short} | {asked.in_short} |")

    section("Refused", "file", "what is said", "and what to do")
    for label, outcome in zip(REFUSED, each("refused", REFUSED), strict=True):
        wrong += outcome.read is not None
        what, _, remedy = (outcome.refusal or outcome.words).partition("; ")
        lines.append(f"| {label} | {what} | {remedy} |")

    section(
        f"Cut at every tenth of its bytes ({FRAMES} frames when whole)",
        "container",
        "frames read, from 1/10 to 9/10",
        "refusals say",
    )
    jobs = [(folder / "cut" / str(count), *row[:3]) for count, row in enumerate(CUT.values())]
    cuts = pool.map(lambda job: cut_file(*job[:3], rate=job[3]), jobs)
    for (label, (*_, tells)), outcomes in zip(CUT.items(), cuts, strict=True):
        wrong += sum(not o.right or (tells and o.read is not None) for o in outcomes)
        read = ["refused" if o.read is None else f"{o.read}" if o.right else "WRONG" for o in outcomes]
        # what is wrong, each once: no file name, up to the first colon or bracket
        wrongs = [re.sub(r"^(.*? is |\S+ (?=has |holds ))", "", o.refusal) for o in outcomes if o.read is None]
        said = " / ".join(sorted({re.split("[;:(]", text)[0].strip() for text in wrongs}))
        lines.append(f"| {label} | {'all refused' if len(wrongs) == len(outcomes) else ', '.join(read)} | {said} |")

    title = f"{examples} damaged files (bytes flipped, cut out, repeated or zeroed)"
    section(title, "container", "read", "refused", align="---:")
    outcomes = damaged(folder, examples, pool)
    lines += [f"| {suffix} | {outcomes[suffix, False]} | {outcomes[suffix, True]} |" for suffix in SEEDS]
    return lines, wrong


def damaged(folder: Path, examples: int, pool: ThreadPoolExecutor) -> Counter:
    """How many were read and refused, by (suffix, refused); anything but a video or one sentence is raised."""
    for suffix, codec in SEEDS.items():
        encode(folder / f"seed.{suffix}", codec=codec, frames=6)
    random = np.random.default_rng(0)
    paths = [folder / f"{count}.{[*SEEDS][count % len(SEEDS)]}" for count in range(examples)]
    for path in paths:
        path.write_bytes(damage((folder / f"seed{path.suffix}").read_bytes(), random))
    return Counter((path.suffix[1:], o.read is None) for path, o in zip(paths, pool.map(try_read, paths), strict=True))


def load_table() -> list[str]:
    """A row and a plot of every run of load_web.py that was kept."""
    lines = ["| through | clients | questions | wrong | broken files | not told in one sentence | seconds |"]
    lines[-1] += " median and longest wait, s | memory at the end, MiB | growth, MiB | on |"
    lines += ["|---|" + "---:|" * 9 + "---|"]
    plots = []
    for path in sorted(PAGE.parent.glob("images/load_*.json"), reverse=True):
        run = json.loads(path.read_text(encoding="utf-8"))
        cells = [run["through"], run["clients"], run["questions"], len(run["wrong"]), run["broken_files"]]
        cells += [run["broken_not_told"], run["seconds"], f"{run['wait_s']['median']}, {run['wait_s']['longest']}"]
        cells += [f"{run['memory'][-1][1]:.0f}", run["growth_mib"], f"{run['host']}, threads: {run['threads']}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        plots += ["", f"![Memory through the {run['through']}, answer by answer](images/{path.stem}.png)"]
    return lines + plots


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load-only", action="store_true")
    options = parser.parse_args()
    write_section(PAGE, "load", "\n".join(load_table()))
    if options.load_only:
        return 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        lines, wrong = tables(Path(folder), options.examples, pool)
    write_section(PAGE, "files", "\n".join(lines))
    print(f"{PAGE}: {wrong} inputs with a wrong outcome")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
