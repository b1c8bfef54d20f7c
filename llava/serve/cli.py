"""Chat about a video in the terminal: `python -m llava.serve.cli --video-file clip.mp4 --retention 0.1`."""

import argparse
import json
import sys

import torch
import transformers

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.model.compression import warm_up_kernels
from llava.model.long_video import STREAM_ABOVE
from llava.serve.chat import Chat
from llava.serve.family import default_sampling
from llava.serve.options import add_model_options, check, compression, model_path, sampling, video_path
from llava.serve.report import as_json, cost
from llava.serve.session import ChatError, ChatSession
from llava.serve.terminal import Terminal

# what a person can put right: all errors of this project are ValueErrors
EXPECTED = (ValueError, OSError, ImportError, torch.cuda.OutOfMemoryError)


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="video file, or folder of .png/.jpg frames")
    add("--video-file", metavar="VIDEO", help=argparse.SUPPRESS)
    add("--question", metavar="TEXT", help="ask this once and leave")
    add("--json", action="store_true", help="with --question: print one JSON object, no more")
    add("--compare", action="store_true", help="answer every question at 100 %% as well")
    stream = f"frames from which it is compressed as read ({STREAM_ABOVE})"
    add("--stream-above", type=int, default=STREAM_ABOVE, metavar="N", help=stream)
    add_model_options(parser)


def execute(options) -> int:
    """Runs the chat; returns the exit code: 0, or 1 after one sentence on standard error."""
    terminal = Terminal()
    try:
        return run(options, terminal)
    except EXPECTED as error:
        terminal.error(one_sentence(error))
        return 1


def one_sentence(error: Exception) -> str:
    """What to tell the person: the first line of a library's long message."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "The GPU's memory is too small for this; use fewer frames, a lower retention or --device cpu."
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def run(options, terminal: Terminal) -> int:
    """Checks everything that is cheap to check, then loads, then talks."""
    check(options)
    compression(options)
    with terminal.waiting("loading the model"):
        session = load_session(options)
    session.stream_above = None if options.compare else options.stream_above
    chat = Chat(session, terminal, compare=options.compare)
    if session.manner.note and not options.json:
        terminal.note(session.manner.note)
    if path := video_path(options):
        chat.show_video(path, quiet=options.json)
    if options.question is None:
        return chat.run()
    if options.json:
        print(json.dumps(_one_json(session, options), ensure_ascii=False))
    else:
        chat.ask(options.question)
    return 0


def load_session(options) -> ChatSession:
    """The model and a session on it. Raises ValueError or OSError with one sentence."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = model_path(options)
    device = _device(options.device)
    try:
        tokenizer, model, image_processor, context_length = load_pretrained_model(
            path,
            None,
            get_model_name_from_path(path),
            device_map=device,
            torch_dtype=options.dtype or ("float32" if device.type == "cpu" else "bfloat16"),
            attn_implementation=options.attn_implementation,
            aot=compression(options),
            tower_dtype=options.tower_dtype,
        )
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = one_sentence(error)
        raise ChatError(f"The checkpoint {path} cannot be loaded ({reason}); check that it is complete.") from error
    warm_up_kernels(model)
    return ChatSession(
        model,
        tokenizer,
        image_processor,
        context_length,
        aot=compression(options),
        sampling=sampling(options, default_sampling(model.config)),
        force_sample=options.force_sample,
        decoder=options.decoder,
        template=options.conv_template,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
    )


def _device(name: str | None) -> torch.device:
    """The device asked for, or the GPU where there is one. Raises ChatError when it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ChatError(f"There is no device {name!r}; use --device cpu or --device cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ChatError("There is no CUDA device here; use --device cpu.")
    return device


def _one_json(session: ChatSession, options) -> dict:
    """The JSON object of --question --json; with --compare the uncompressed answer stands beside."""
    whole = None
    if options.compare:
        whole, answer = session.compare(options.question)
    else:
        answer = session.ask(options.question)
    result = as_json(answer, session, model_path(options))
    if whole:
        result["uncompressed"] = {"answer": whole.text, **cost(whole)}
    return result


main = entry("chat")

if __name__ == "__main__":
    sys.exit(main())
