"""Time and peak memory of the embedded model against frames and retention, on one CPU thread.

    python -m benchmarks.bench_growth [--output FILE] [--plot docs/images/growth.svg]
    python -m benchmarks.bench_growth --ways streamed pixels chat --frames 64 1024 --retentions --limit 1.3

whole: random pixels through tower and method at once. streamed: the same, made and compressed chunk by chunk. pixels:
as one tensor, which is there before and does not count, in `images=[pixels]`. chat: a file of 320x240 through what
`aot chat` does, up to the encoded video, without the decoder's own process; "answer_mib" is the peak with an answer of
one token as well. Each point runs in a fork of a process that has loaded the model and run it once. Memory is the
highest resident one above that before the first frame (Linux). "memory_ratio" is that of the most frames over that of
the fewest, kept tokens apart; the exit status is 1 when one is above --limit. The last line is JSON.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from aot_cli.main import make_parser as aot_parser
from benchmarks.measure import environment, make_parser, process_status, save
from benchmarks.odd_files import encode
from benchmarks.plot_growth import curves, draw
from llava.chat.options import load_session
from llava.model.long_video import STREAM_ABOVE, compress_stream

WAYS = ("whole", "streamed", "pixels", "chat")
CHUNK = 16


def prepare(session, way: str, frames: int, film: Path) -> Callable:
    """What encodes so many frames, and compresses them where the way does that at once."""
    model, size = session.model, session.model.get_vision_tower().image_size
    if way == "whole":
        return lambda: model.video_tokens(model.encode_video(torch.randn(frames, 3, size, size)))
    if way == "streamed":
        lengths = [min(CHUNK, frames - start) for start in range(0, frames, CHUNK)]
        return lambda: model._video_tokens(compress_stream(model, (torch.randn(n, 3, size, size) for n in lengths)))
    if way == "pixels":
        pixels = torch.randn(frames, 3, size, size)
        return lambda: model._visual_tokens([pixels], ["video"], None)
    session.sampling = replace(session.sampling, num_frames=frames)
    return lambda: session.set_video(str(film))


@torch.inference_mode()
def measure(session, way: str, frames: int, retention: float, film: Path) -> dict:
    """One point; RuntimeError when the number of tokens is wrong."""
    torch.manual_seed(0)
    session.set_retention(retention)
    session.model.config.aot = session.compression
    work = prepare(session, way, frames, film)
    settled = process_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew
    start = time.process_time()
    work()
    row = {"way": way, "frames": frames, "retention": retention, "ms": 1e3 * (time.process_time() - start)}
    row["above_mib"] = (process_status("VmHWM") - settled) / 2**10
    if way == "chat":
        session.ask("What moves?")
        row |= {"answer_mib": (process_status("VmHWM") - settled) / 2**10, "streamed": session.loaded.streamed}
    video = session.model.last_compression[-1]
    video.check()
    wanted = video.config.budget(frames, video.tokens_before // frames)
    if (video.frames, video.num_visual) != (frames, wanted):
        raise RuntimeError(f"{video.num_visual} tokens are not what was asked for; nothing is reported.")
    # a whole video of the chat is compressed by each question, after the peak
    kept = ("tokens", "frame", "position", "kind", "mass") if row.get("streamed", True) else ()
    return row | {"kept_mib": sum(getattr(video, name).nbytes for name in kept) / 2**20}


def in_fork(work: Callable[..., dict], *arguments) -> dict:
    """The row that a fork measures, so that it sees no other's memory; ends the run when that fails."""
    context = multiprocessing.get_context("fork")
    rows = context.SimpleQueue()
    process = context.Process(target=lambda: rows.put(work(*arguments)))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("Measuring failed; nothing is reported.")
    return rows.get()


def memory_ratio(rows: list[dict]) -> float:
    """Peak memory of the most frames over that of the fewest, kept tokens apart."""
    net = [row["above_mib"] - row["kept_mib"] for row in sorted(rows, key=lambda row: row["frames"])]
    return round(net[-1] / net[0], 3)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["whole", "streamed"])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 32, 128, 512, 1024])
    parser.add_argument("--retentions", nargs="*", type=float, default=[0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--at", type=int, default=128, help="frames of the curve against retention")
    parser.add_argument("--limit", type=float, default=float("inf"), help="largest memory_ratio that passes")
    parser.add_argument("--plot", type=Path, help="file for the picture (.svg)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # forks need it, and so does the process's clock
    session = load_session(aot_parser().parse_args(["chat", "--device", "cpu", "--max-new-tokens", "1"]))
    session.stream_above = STREAM_ABOVE
    result = {"benchmark": "growth", **environment(torch.device("cpu"))}
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        if "chat" in options.ways:
            encode(film, size=(320, 240), frames=max(*options.frames, options.at), rate=25)
        measure(session, "whole", 8, 0.1, film)
        by_frames = [(way, frames, 0.1) for way in options.ways for frames in options.frames]
        by_retention = [(way, options.at, retention) for way in options.ways for retention in options.retentions]
        for name, points in (("by_frames", by_frames), ("by_retention", by_retention)):
            result[name] = []
            for point in points:
                result[name].append(in_fork(measure, session, *point, film))
                print(json.dumps(result[name][-1]), flush=True)
    result["memory_ratio"] = {
        way: memory_ratio([row for row in result["by_frames"] if row["way"] == way]) for way in options.ways
    }
    if options.plot:
        panels = {}
        for along in ("frames", "retention"):
            panels |= curves(result[f"by_{along}"], along, lambda row: row["way"])
        result["exponents"] = draw(panels, f"aot-tiny, {result['device']}", options.plot)
    save(result, options.output)
    print(json.dumps(result))
    return int(max(result["memory_ratio"].values()) > options.limit)


if __name__ == "__main__":
    sys.exit(main())
