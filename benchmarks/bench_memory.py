"""Peak memory of a long video on a CPU against that of a short one, on the embedded model at 10 %.

    python -m benchmarks.bench_memory [--paths stream pixels chat] [--frames 64 1024] [--limit 1.3]

stream: random pixels through tower and method, made chunk by chunk. pixels: as one tensor, which is there before and
does not count, in `images=[pixels]`. chat: a file of 320x240 through what `aot chat` does, decoding included,
up to the encoded video; "answer" is the peak with an answer of one token as well, whose language model holds every
kept token. Each number of frames runs in a process of its own. What counts is the highest resident memory above that
before the first frame, less the kept tokens; the decoder's own process does not count. The last line is JSON; the exit
status is 1 when the ratio of the last to the first is above --limit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import circumstances

CHUNK = 16
PATHS = ("stream", "pixels", "chat")


def resident(field: str) -> int:
    """Bytes of a field of this process's status: VmRSS now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def forget_peak() -> int:
    """Lets the highest start anew; bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


@torch.inference_mode()
def random_pixels(frames: int, path: str) -> dict:
    """Compresses random pixels, in chunks or as a tensor, and says what that took."""
    from benchmarks.shapes import make_model
    from llava.model.long_video import compress_stream

    torch.manual_seed(0)
    model = make_model("tiny", torch.device("cpu"))
    model.config.aot = {"retention": 0.1}
    size = model.get_vision_tower().image_size
    pixels = torch.randn(frames, 3, size, size) if path == "pixels" else None
    settled = forget_peak()
    if pixels is None:
        video = compress_stream(model, (torch.randn(CHUNK, 3, size, size) for _ in range(frames // CHUNK)))
    else:
        model._visual_tokens([pixels], ["video"], None)
        video = model.last_compression[0]
    above = resident("VmHWM") - settled
    check(video.num_visual, video.tokens_before, bool(video.tokens.isfinite().all()))
    kept = sum(getattr(video, name).nbytes for name in ("tokens", "frame", "position", "kind", "mass"))
    return {"above_mib": above / 2**20, "kept_mib": kept / 2**20}


def chat(frames: int, file: str) -> dict:
    """Reads, encodes and asks as `aot chat` does."""
    from aot_cli.main import make_parser
    from llava.chat.options import load_session

    options = make_parser().parse_args(
        ["chat", "--num-frames", str(frames), "--max-new-tokens", "1", "--device", "cpu"]
    )
    session = load_session(options)
    session.stream_above = options.stream_above
    settled = forget_peak()
    loaded = session.set_video(file)
    encoded = resident("VmHWM") - settled
    answer = session.ask("What moves?")
    check(answer.after.visual, answer.before.visual, answer.frames == frames)
    kept = (answer.after.visual + answer.after.newline) * session.model.config.hidden_size * 4
    return {
        "above_mib": encoded / 2**20,
        "kept_mib": kept / 2**20 if loaded.streamed else 0.0,  # compressed, and kept, with each question elsewhere
        "answer_mib": (resident("VmHWM") - settled) / 2**20,
        "streamed": loaded.streamed,
    }


def check(kept: int, before: int, good: bool) -> None:
    if kept != max(1, before // 10) or not good:
        sys.exit(f"The result is wrong ({kept} tokens, {before // 10} expected); nothing is reported.")


def write_film(file: Path, frames: int) -> None:
    """An MP4 of 320x240 whose frames all differ."""
    import av
    import numpy as np

    place = np.arange(240)[:, None, None] + np.arange(320)[None, :, None] + np.arange(3)
    with av.open(str(file), "w") as container:
        track = container.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        for number in range(frames):
            picture = (place * (1 + number % 7) + 3 * number).astype(np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode(None))


def measure(path: str, counts: list[int], file: str) -> dict:
    """One row for each number of frames, and the ratio of the last to the first."""
    rows = []
    for frames in counts:
        command = [sys.executable, "-m", "benchmarks.bench_memory", "--child", path, str(frames), file]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        rows.append({"frames": frames, **json.loads(done.stdout.splitlines()[-1])})
        print(path, rows[-1], flush=True)
    net = [row["above_mib"] - row["kept_mib"] for row in rows]
    return {"path": path, "rows": rows, "ratio": round(net[-1] / net[0], 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--frames", nargs="+", type=int, default=[64, 1024])
    parser.add_argument("--limit", type=float, default=1.3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, frames, file = options.child
        print(json.dumps(chat(int(frames), file) if path == "chat" else random_pixels(int(frames), path)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        if "chat" in options.paths:
            write_film(film, max(options.frames))
        results = [measure(path, options.frames, str(film)) for path in options.paths]
    found = {"benchmark": "memory", **circumstances(torch.device("cpu")), "limit": options.limit, "paths": results}
    print(json.dumps(found))
    return int(any(result["ratio"] > options.limit for result in results))


if __name__ == "__main__":
    sys.exit(main())
