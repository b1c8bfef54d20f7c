"""Command-line options of the chat, and the settings they stand for."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from aot import AOTConfig
from aot_cli.parser import Parser, share
from llava.serve.family import Sampling
from llava.serve.session import ChatError
from llava.shipped import shipped
from llava.video import DECODERS

LONGEST = 512  # tokens of an answer
TEMPLATE = "qwen_1_5"


def add_model_options(parser: Parser, *, answers: bool = True) -> None:
    """What every command takes that loads a model: `load_session` reads these. answers: does the command ask it?"""
    reduce = parser.add_argument_group("token reduction")
    add = reduce.add_argument
    add("--retention", type=share, metavar="R", help="share of visual tokens to keep (default 10%%)")
    add("--no-aot", action="store_true", help="keep every token, as --retention 100%% does")
    add("--preset", default="default", metavar="NAME", help="default, paper or released")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of AOTConfig")
    video = parser.add_argument_group("video")
    add = video.add_argument
    add("--num-frames", type=int, metavar="N", help="frames to look at (default: the model's own)")
    add("--fps", type=float, metavar="F", help="one frame every 1/F seconds, at most --num-frames")
    add("--force-sample", action="store_true", help="always take exactly --num-frames")
    add("--decoder", choices=DECODERS, default="auto", metavar="NAME", help=f"{', '.join(DECODERS)} (default PyAV)")
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--model-path", metavar="PATH", help="checkpoint folder or hub name (default: aot-tiny)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: cuda when there is one)")
    dtypes = "float32, float16 or bfloat16"
    add("--dtype", choices=("float32", "float16", "bfloat16"), metavar="NAME", help=dtypes)
    tower = "of the tower: bfloat16 is faster on new CPUs"
    add("--tower-dtype", choices=("float32", "bfloat16"), metavar="NAME", help=tower)
    attention = "flash_attention_2 (default), or sdpa"
    add("--attn-implementation", default="flash_attention_2", metavar="A", help=attention)
    if not answers:
        parser.set_defaults(conv_template=TEMPLATE, max_new_tokens=LONGEST, temperature=0.0)
        return
    add("--conv-template", default=TEMPLATE, metavar="NAME", help=f"prompt format (default {TEMPLATE})")
    add("--max-new-tokens", type=int, default=LONGEST, metavar="N", help=f"longest answer (default {LONGEST})")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (default)")


def check(options: argparse.Namespace) -> None:
    """Raises ChatError for options that do not go together or make no sense."""
    if options.json and options.question is None:
        raise ChatError("--json prints one answer and needs --question.")
    if options.video and options.video_file:
        raise ChatError("The video is named twice; leave out --video-file.")
    if options.question is not None and not video_path(options):
        raise ChatError("--question needs a video to look at; name one, as in: aot chat clip.mp4 --question TEXT.")
    if options.stream_above < 1:
        raise ChatError("--stream-above must be at least 1 frame.")
    check_model_options(options)
    path = video_path(options)
    if path and not Path(path).exists():
        raise ChatError(f"There is no video at {path}; check the path.")


def video_path(options: argparse.Namespace) -> str | None:
    """The video of the chat, given as an argument or as an option."""
    return options.video or options.video_file


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
    if isinstance(settings.get("retention"), str):
        settings["retention"] = share(settings["retention"])
    if options.retention is not None:
        settings["retention"] = options.retention
    config = AOTConfig.preset(options.preset, **settings)
    return None if options.no_aot or options.retention == 1 else config


def sampling(options: argparse.Namespace, default: Sampling) -> Sampling:
    """The model's own sampling with what the options change."""
    chosen = {"num_frames": options.num_frames, "fps": options.fps}
    return replace(default, **{name: value for name, value in chosen.items() if value is not None})


def model_path(options: argparse.Namespace) -> str:
    """The checkpoint: as given, or the embedded one. Raises ChatError where that is not installed."""
    if options.model_path:
        return options.model_path
    if (embedded := shipped("checkpoints/aot-tiny")) is None:
        raise ChatError("The embedded model is not part of this installation; name a model with --model-path.")
    return str(embedded)


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
