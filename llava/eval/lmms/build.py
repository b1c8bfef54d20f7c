"""Building a stock wrapper on one device of a rank's own, whatever the number of ranks and with or without a GPU."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from accelerate import Accelerator

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


@contextmanager
def single_device(stock: ModuleType, accelerator: Accelerator, device: torch.device) -> Iterator[dict]:
    """Inside, a wrapper of the module `stock` builds as the only process; yields the arguments that place it.

    So it goes to the device given and takes the checkpoint as it is, whatever launched it and whatever its path.
    """

    class OneProcess:
        num_processes = 1
        local_process_index = accelerator.local_process_index

        def __init__(self, *_, **__):
            pass

    def load(path, base, name, *, overwrite_config=None, device_map=None, **arguments):
        fields = {key: value for key, value in (overwrite_config or {}).items() if key not in _BY_PATH}
        return load_pretrained_model(path, base, name, overwrite_config=fields, device_map=device, **arguments)

    saved = stock.Accelerator, stock.load_pretrained_model
    stock.Accelerator, stock.load_pretrained_model = OneProcess, load
    try:
        yield {"device": str(device), "device_map": "auto"}
    finally:
        stock.Accelerator, stock.load_pretrained_model = saved
