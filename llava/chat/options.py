"""Command-line options of every command that loads a model, and the session that they ask for."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
import transformers

from aot import AOTConfig
from aot_cli.parser import Parser, add_cache_options, frame_count, pair, share
from llava.chat.answer import ChatError
from llava.chat.prompt import Sampling, default_sampling
from llava.chat.session import ChatSession
from llava.chat.terminal import Terminal
from llava.hf import video_processor as hf
from llava.hf.checkpoint import load_checkpoint
from llava.hf.session import TransformersSession
from llava.model.builder import FEW_BITS, attention_for, context_length, load_pretrained_model
from llava.model.checkpoint import read_settings
from llava.model.compression import warm_up_kernels
from llava.utils import shipped
from llava.video import DECODERS
from llava.video_cache import encoder_cache

LONGEST = 512  # tokens of an answer
MORE_FRAMES = 4  # times the model's own, of --num-frames auto
TEMPLATE = "qwen_1_5"
# what a person can put right: all errors of this project are ValueErrors
EXPECTED = (ValueError, OSError, ImportError, torch.cuda.OutOfMemoryError)


def add_model_options(parser: Parser, *, answers: bool = True, cached: bool = False) -> None:
    """What every command takes that loads a model: `load_session` reads these.

    answers: does the command ask it? cached: does it read files by `ChatSession.set_video` and ask about them?
    """
    reduce = parser.add_argument_group("token reduction")
    add = reduce.add_argument
    add("--retention", type=share, metavar="R", help="share of visual tokens to keep (default 10%%)")
    add("--max-tokens", type=int, metavar="N", help="most visual tokens of a video")
    add("--no-aot", action="store_true", help=argparse.SUPPRESS)  # as --retention 100%
    reuse = "encode once what stands still: 0 or 0.02 (off)"
    add("--tower-reuse", type=float, metavar="E", help=reuse)
    add("--preset", default="default", metavar="NAME", help="default, paper or released")
    add("--set", type=pair, action="append", default=[], metavar="NAME=VALUE", help="any other setting of AOTConfig")
    video = parser.add_argument_group("video")
    add = video.add_argument
    add("--num-frames", type=frame_count, metavar="N", help="frames to look at, or auto: more at equal tokens")
    add("--fps", type=float, metavar="F", help="one frame every 1/F seconds, at most --num-frames")
    # of Qwen-VL, in docs/models.md: pixels of a frame, and tokens of a video before reduction, at most
    add("--max-pixels", type=int, metavar="N", help=argparse.SUPPRESS)
    add("--total-tokens", type=int, metavar="N", help=argparse.SUPPRESS)
    add("--force-sample", action="store_true", help=argparse.SUPPRESS)  # repeats frames until there are --num-frames
    add("--decoder", choices=DECODERS, default="auto", metavar="NAME", help=f"{', '.join(DECODERS)} (default PyAV)")
    if cached:
        add_cache_options(add)
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--model-path", metavar="PATH", help="checkpoint folder or hub name (default: aot-tiny)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: cuda when there is one)")
    dtypes = "float32, float16 or bfloat16"
    add("--dtype", choices=("float32", "float16", "bfloat16"), metavar="NAME", help=dtypes)
    tower = "of the tower: bfloat16 is faster on new CPUs"
    add("--tower-dtype", choices=("float32", "bfloat16"), metavar="NAME", help=tower)
    bits = "the language model's weights in 8bit, 4bit or int8"
    add("--quantization", choices=FEW_BITS, metavar="NAME", help=bits)
    # flash_attention_2, where it is, or sdpa
    add("--attn-implementation", default="flash_attention_2", metavar="A", help=argparse.SUPPRESS)
    if not answers:
        parser.set_defaults(conv_template=TEMPLATE, max_new_tokens=LONGEST, temperature=0.0)
        return
    add("--conv-template", default=TEMPLATE, metavar="NAME", help=argparse.SUPPRESS)  # the prompt format
    add("--max-new-tokens", type=int, default=LONGEST, metavar="N", help=f"longest answer (default {LONGEST})")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (default)")


def compression(options: argparse.Namespace) -> AOTConfig | None:
    """The settings of the token reduction; None when every token stays. ChatError or AOTError for bad ones."""
    for name, harmless in (("retention", (None, 1.0)), ("max_tokens", (None,)), ("tower_reuse", (None,))):
        if options.no_aot and (value := getattr(options, name)) not in harmless:
            option = f"--{name.replace('_', '-')}"
            raise ChatError(f"--no-aot and {option} {value:g} contradict each other; leave one of them out.")
    settings = dict(options.set)
    if isinstance(settings.get("retention"), str):
        settings["retention"] = share(settings["retention"])
    given = {name: getattr(options, name) for name in ("retention", "max_tokens", "tower_reuse")}
    settings |= {name: value for name, value in given.items() if value is not None}
    config = AOTConfig.preset(options.preset, **settings)
    every = options.retention == 1 and config.keeps_all
    return None if options.no_aot or every else config


def model_path(options: argparse.Namespace) -> str:
    """The checkpoint: as given, or the embedded one. Raises ChatError where that is not installed."""
    if options.model_path:
        return options.model_path
    if (embedded := shipped("checkpoints/aot-tiny")) is None:
        raise ChatError("The embedded model is not part of this installation; name a model with --model-path.")
    return str(embedded)


def load_session(options) -> ChatSession:
    """The model and a session on it; what is cheap to check comes first. Raises EXPECTED errors with one sentence."""
    if options.max_new_tokens < 1:
        raise ChatError("--max-new-tokens must be at least 1.")
    if options.num_frames == "auto" and (options.fps is not None or options.force_sample):
        raise ChatError("--num-frames auto chooses the frames itself; leave --fps and --force-sample out.")
    if not options.temperature >= 0:
        raise ChatError("--temperature must be 0 or more.")
    config = compression(options)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = model_path(options)
    device = _device(options.device)
    settings = read_settings(path)
    if settings.get("model_type") in hf.PROCESSORS:  # in transformers' own layout
        return transformers_session(options, config, path, settings, device)
    if options.max_pixels is not None or options.total_tokens is not None:
        raise ChatError("--max-pixels and --total-tokens are for Qwen-VL; this model reads frames of one size.")
    with _loading(path):
        tokenizer, model, image_processor, context_length = load_pretrained_model(
            path,
            device_map=device,
            torch_dtype=_dtype(options, device),
            attn_implementation=options.attn_implementation,
            compression=config,
            tower_dtype=options.tower_dtype,
            **({f"load_{options.quantization}": True} if options.quantization else {}),
        )
    warm_up_kernels(model)
    cache = None
    if (folder := getattr(options, "cache", None)) is not None:
        choice = {name: getattr(options, name) for name in ("dtype", "tower_dtype", "attn_implementation")}
        cache = encoder_cache(folder, options.cache_gb, path, device=device.type, **choice)
    # the model's own sampling with what the options change
    sampling = default_sampling(model.config)
    if options.num_frames == "auto":
        sampling, config = more_frames(model, sampling, config)
        model.config.aot = config
    else:
        chosen = {name: value for name in ("num_frames", "fps") if (value := getattr(options, name)) is not None}
        sampling = replace(sampling, **chosen)
    return ChatSession(
        model,
        tokenizer,
        image_processor,
        context_length,
        compression=config,
        sampling=sampling,
        force_sample=options.force_sample,
        decoder=options.decoder,
        template=options.conv_template,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        cache=cache,
    )


def more_frames(model, sampling: Sampling, config: AOTConfig | None) -> tuple[Sampling, AOTConfig]:
    """Four times the frames, those in which the most changes, in as many tokens as the usual ones would have."""
    usual, tokens = sampling.num_frames, model.uncompressed_count(sampling.num_frames)[0]
    config = config or AOTConfig(retention=1.0)
    config = config.replace(retention=None, max_tokens=config.budget(usual, tokens // usual))
    return replace(sampling, num_frames=MORE_FRAMES * usual, fps=None, by_change=True), config


def transformers_session(
    options, config: AOTConfig | None, path: str, settings: Mapping[str, Any], device: torch.device
) -> TransformersSession:
    """The session on a checkpoint of transformers' own models; settings: its config.json. Raises EXPECTED errors."""
    others = {"tower_dtype": None, "quantization": None, "force_sample": False, "conv_template": TEMPLATE}
    for name, usual in others.items():
        if getattr(options, name, usual) != usual:
            raise ChatError(
                f"--{name.replace('_', '-')} is not for this model, whose own processor decides; leave it out."
            )
    if options.num_frames == "auto":
        raise ChatError("--num-frames auto is for checkpoints in LLaVA's layout; give a number of frames here.")
    if getattr(options, "cache", None) is not None:
        raise ChatError("--cache is for checkpoints in LLaVA's layout; leave it out here.")
    chosen = hf.Sampling(options.num_frames, options.fps, options.max_pixels, options.total_tokens)
    dtype = _dtype(options, device)
    attention = attention_for(options.attn_implementation, device, getattr(torch, dtype))
    with _loading(path):
        found = load_checkpoint(path, settings, device=device, dtype=dtype, attention=attention, sampling=chosen)
    return TransformersSession(
        found.model,
        found.tokenizer,
        None,
        context_length(found.model.config.get_text_config()),
        compression=config,
        decoder=options.decoder,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        checkpoint=found,
    )


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """ChatError for what goes wrong inside with a checkpoint, but for a GPU that is too small."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = one_sentence(error)
        raise ChatError(f"The checkpoint {path} cannot be loaded ({reason}); check that it is complete.") from error


def _dtype(options: argparse.Namespace, device: torch.device) -> str:
    return options.dtype or ("float32" if device.type == "cpu" else "bfloat16")


def command(run: Callable[[argparse.Namespace, Terminal], int | None]) -> Callable[[argparse.Namespace], int]:
    """A command's `execute`: the exit code of `run`, or 1 after one sentence on standard error."""

    @wraps(run)
    def execute(options: argparse.Namespace) -> int:
        terminal = Terminal()
        try:
            return run(options, terminal) or 0
        except EXPECTED as error:
            terminal.error(one_sentence(error))
            return 1

    return execute


def open_session(options: argparse.Namespace, terminal: Terminal, *, quiet: bool = False) -> ChatSession:
    """`load_session` behind a progress bar; quiet: what to know about the model is not said."""
    with terminal.waiting("loading the model"):
        session = load_session(options)
    if options.num_frames == "auto" and not quiet:
        usual, asked = default_sampling(session.model.config).num_frames, session.sampling.num_frames
        terminal.note(f"It looks at {asked} frames and is made for {usual}; compare its answers with those of {usual}.")
    if session.prompt_style.note and not quiet:
        terminal.note(session.prompt_style.note)
    return session


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


def one_sentence(error: Exception) -> str:
    """What to tell the person: the first line of a library's long message."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "The GPU's memory is too small for this; use fewer frames, a lower retention or --device cpu."
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
