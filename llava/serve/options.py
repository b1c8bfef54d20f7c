"""Command-line options of the chat, and the settings they stand for."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from aot import AOTConfig
from llava.model.long_video import STREAM_ABOVE
from llava.serve.family import Sampling
from llava.serve.session import ChatError
from llava.video import DECODERS

EMBEDDED = Path("checkpoints", "aot-tiny")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def chat_parser(prog: str) -> Parser:
    """All options of the chat."""
    parser = Parser(prog=prog, description="Chat about a video with a model that sees a share of its tokens.")
    add = parser.add_argument
    add("--video-file", help="video file, or folder of .png/.jpg frames in natural order")
    add("--question", help="ask this once and leave")
    add("--json", action="store_true", help="with --question: print one JSON object and nothing else")
    add("--compare", action="store_true", help="answer every question at 100 %% as well")
    stream = f"compress a video of more frames while it is read (default {STREAM_ABOVE}; not with --compare)"
    add("--stream-above", type=int, default=STREAM_ABOVE, metavar="N", help=stream)
    add_model_options(parser)
    return parser


def add_model_options(parser: Parser) -> None:
    """What every command takes that loads a model: `load_session` reads these."""
    model_path = "checkpoint folder or hub name; default: the embedded checkpoints/aot-tiny"
    parser.add_argument("--model-path", help=model_path)
    reduce = parser.add_argument_group("token reduction")
    add = reduce.add_argument
    add(
        "--retention",
        type=float,
        metavar="R",
        help="share of visual tokens to keep, 0 < R <= 1 (default 0.1)",
    )
    add("--no-aot", action="store_true", help="keep every token, as --retention 1 does")
    add("--preset", default="default", help="default, paper or released")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of AOTConfig")
    video = parser.add_argument_group("video")
    add = video.add_argument
    add("--num-frames", type=int, metavar="N", help="frames to look at (default: what the model was made for)")
    add("--fps", type=float, help="take one frame every 1/FPS seconds, at most --num-frames")
    add("--force-sample", action="store_true", help="with --fps: always take exactly --num-frames")
    add("--decoder", choices=DECODERS, default="auto", help="default: PyAV; decord refuses what it may read wrongly")
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on cpu, else bfloat16")
    add(
        "--tower-dtype",
        choices=("float32", "bfloat16"),
        help="of the vision tower alone; bfloat16 is faster on new CPUs",
    )
    add("--attn-implementation", default="flash_attention_2", help="falls back to sdpa when not installed")
    add("--conv-template", default="qwen_1_5", help="prompt format")
    add("--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (default 512)")
    add("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")


def check(options: argparse.Namespace) -> None:
    """Raises ChatError for options that do not go together or make no sense."""
    if options.json and options.question is None:
        raise ChatError("--json prints one answer and needs --question.")
    if options.question is not None and not options.video_file:
        raise ChatError("--question needs a video to look at; name one with --video-file.")
    if options.stream_above < 1:
        raise ChatError("--stream-above must be at least 1 frame.")
    check_model_options(options)
    if options.video_file and not Path(options.video_file).exists():
        raise ChatError(f"There is no video at {options.video_file}; check the path.")


def check_model_options(options: argparse.Namespace) -> None:
    """The part of `check` that holds for every command that loads a model."""
    if options.no_aot and options.retention not in (None, 1.0):
        raise ChatError("--no-aot and --retention contradict each other; leave one of them out.")
    if options.max_new_tokens < 1:
        raise ChatError("--max-new-tokens must be at least 1.")
    if not options.temperature >= 0:
        raise ChatError("--temperature must be 0 or more.")


def compression(options: argparse.Namespace) -> AOTConfig | None:
    """The settings of the token reduction; None when every token stays. AOTError for a bad one."""
    settings = dict(_setting(text) for text in options.set)
    if options.retention is not None:
        settings["retention"] = options.retention
    config = AOTConfig.preset(options.preset, **settings)
    return None if options.no_aot or options.retention == 1 else config


def sampling(options: argparse.Namespace, default: Sampling) -> Sampling:
    """The model's own sampling with what the options change."""
    chosen = {"num_frames": options.num_frames, "fps": options.fps}
    return replace(default, **{name: value for name, value in chosen.items() if value is not None})


def model_path(options: argparse.Namespace) -> str:
    """The checkpoint: as given, or the embedded one beside the package or in the working folder."""
    if options.model_path:
        return options.model_path
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / EMBEDDED / "config.json").is_file():
            return str(root / EMBEDDED)
    raise ChatError(f"There is no embedded checkpoint {EMBEDDED} here; name one with --model-path.")


def _setting(text: str) -> tuple[str, object]:
    """NAME=VALUE, the value as JSON where it is JSON and as a word otherwise."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ChatError(f"--set takes NAME=VALUE, such as --set clips=dynamic, and not {text!r}.")
    return name, json_or_word(value)


def json_or_word(text: str):
    """A number, true, false, null, list or mapping as in JSON; anything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
