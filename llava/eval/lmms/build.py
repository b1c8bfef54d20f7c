"""Building a stock wrapper on one device of a rank's own, whatever the number of ranks and with or without a GPU."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from llava.model.builder import load_pretrained_model

# llava_vid sets these for a path in which it finds "yi" or "vicuna"
_BY_PATH = ("rope_scaling", "max_sequence_length", "tokenizer_model_max_length")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turns an exception into the end of the process, exit code 1.

    lmms-eval catches exceptions and leaves with 0; SystemExit passes. What a person can put right (ValueError,
    OSError) is said in its one sentence, anything else with its traceback.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, ValueError | OSError):
            logging.getLogger(__name__).error("the run ends here", exc_info=error)
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def device_of(rank: int, wanted: str | None) -> torch.device:
    """The device of a rank on its machine: its own GPU, or the CPU where there is none or it is asked for."""
    if not torch.cuda.is_available() or str(wanted) == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank)


def loading_to(device: torch.device) -> Callable:
    """What loads a checkpoint in the place of a LLaVA wrapper's `load_pretrained_model`: onto a device, as it is,
    whatever launched the wrapper and whatever the checkpoint's path.
    """

    def load(path, base, name, *, overwrite_config=None, device_map=None, **arguments):
        fields = {key: value for key, value in (overwrite_config or {}).items() if key not in _BY_PATH}
        return load_pretrained_model(path, base, name, overwrite_config=fields, device_map=device, **arguments)

    return load


class OneProcess:
    """In the place of Accelerator: a rank builds as if it were alone."""

    num_processes, local_process_index, is_main_process, is_local_main_process = 1, 0, True, True

    def __init__(self, *_: Any, **__: Any):
        pass

    def unwrap_model(self, model: Any) -> Any:
        return model


@contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """Inside, these names of a module are others."""
    saved = {name: getattr(module, name) for name in names}
    try:
        vars(module).update(names)
        yield
    finally:
        vars(module).update(saved)
