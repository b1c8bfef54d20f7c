"""Do the weights of a checkpoint fit the model? Before they are loaded, and after."""

import copy
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with one sentence saying what to do."""


def reason_of(error: Exception) -> str:
    """The first sentence of a library's error, on one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]


def read_json(file: Path) -> dict:
    """The settings that a file holds. Raises CheckpointError."""
    if file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise CheckpointError(f"{file} is no file; download it again.")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} holds no settings; download it again.")
    return settings


# of older releases and of whole SigLIP towers: in some checkpoints, in no published one, and never used here
HARMLESS = (r"(^|\.)position_ids$", r"rotary_emb\.inv_freq$", r"vision_tower\.vision_model\.head\.")
UNUSED = r"vision_tower\.vision_model\.post_layernorm\."  # in every published one, and not used


def check_keys(
    path, *, missing: Iterable[str] = (), unknown: Iterable[str] = (), mismatched: Iterable[tuple | str] = ()
) -> None:
    """CheckpointError for the first key that a model lacks in a checkpoint, does not know, or has in another shape.

    mismatched: (name, shape in the checkpoint, shape in the model), or the name alone, all that transformers 4 tells.
    """
    missing, unknown = sorted(missing), sorted(unknown)
    shapes = sorted((entry,) if isinstance(entry, str) else tuple(entry) for entry in mismatched)
    if missing:
        fault = f"lacks {_first(missing)}"
    elif unknown:
        fault = f"holds unknown {_first(unknown)}"
    elif shapes:
        name, *pair = shapes[0]
        more = " of shape {} where config.json asks for {}".format(*map(tuple, pair)) if pair else " in another shape"
        fault = f"holds {_first([key for key, *_ in shapes])}{more}"
    else:
        return
    raise CheckpointError(
        f"The checkpoint {path} {fault}; download it again, or check that it is a SigLIP + Qwen2 checkpoint in "
        "LLaVA-NeXT's layout."
    )


def _first(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def check_fit(path, stored: Mapping, model_class: type, config) -> Set[str]:
    """Keys of the tensors that a model of ``config`` takes. stored: of `folder.stored_tensors`.

    Nothing is loaded: the model is built without memory for its weights. Raises CheckpointError unless all are stored
    (but for a tied table and what nobody uses), in its shapes, and no others but harmless ones.
    """
    _check_kinds(path, stored, config)
    try:
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: no model can be built as config.json says ({reason_of(error)}); correct it, or download it again."
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ignored = re.compile("|".join(model._keys_to_ignore_on_load_unexpected))
    free = {"lm_head.weight"} if config.tie_word_embeddings else set()
    check_keys(
        path,
        missing=[name for name in wanted.keys() - stored.keys() - free if not re.search(UNUSED, name)],
        unknown=[name for name in stored.keys() - wanted.keys() if not ignored.search(name)],
        mismatched=[
            (name, stored[name].shape, wanted[name])
            for name in stored.keys() & wanted.keys()
            if stored[name].shape != wanted[name]
        ],
    )
    if free and "lm_head.weight" in stored:
        _check_tied(path, stored)
    return wanted.keys()


def _check_kinds(path, stored: Mapping, config) -> None:
    """CheckpointError for quantised weights, a tower that is not there, and another number of layers."""
    for name, tensor in stored.items():
        if name.endswith((".weight", ".bias", ".qweight")) and tensor.dtype not in ("F16", "BF16", "F32", "F64"):
            raise CheckpointError(
                f"The checkpoint {path} holds {name} as {tensor.dtype}, which is quantised; use the original "
                "checkpoint in float16 or bfloat16."
            )
    if not any("vision_tower." in name for name in stored):
        raise CheckpointError(
            f"The checkpoint {path} holds no vision tower: it was saved without the frozen one; save it whole, or add "
            "the tower's weights under the names model.vision_tower.vision_tower.*."
        )
    found = layer_count(stored, "model.layers.")
    if found != config.num_hidden_layers:
        raise CheckpointError(
            f"The checkpoint {path} holds {found} layers and its config.json says num_hidden_layers "
            f"{config.num_hidden_layers}; download both again."
        )


def layer_count(names: Iterable[str], prefix: str) -> int:
    """Layers among names such as ``prefix`` + "0.mlp"."""
    tails = (name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix))
    return max((int(tail) + 1 for tail in tails if tail.isdigit()), default=0)


def check_finite(path, tensors: Mapping[str, torch.Tensor]) -> None:
    """CheckpointError that names the first of these weights with a NaN or an infinite value.

    The smallest and the largest value tell; those of all weights of a device are read at once.
    """
    places: dict[torch.device, list[str]] = {}
    ends: dict[torch.device, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        # on "meta" are those that accelerate leaves on the disk; torchao's are of a class of their own
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if plain and tensor.is_floating_point() and tensor.numel() and tensor.device.type != "meta":
            places.setdefault(tensor.device, []).append(name)
            ends.setdefault(tensor.device, []).append(torch.stack(tensor.aminmax()).float())
    for device, pairs in ends.items():
        finite = torch.stack(pairs).isfinite().all(dim=1).tolist()
        if not all(finite):
            first = places[device][finite.index(False)]
            raise CheckpointError(
                f"The checkpoint {path} holds NaN or infinite values in {first}; download it again, or load it in the "
                "dtype that it was trained in."
            )


@contextmanager
def quiet_report() -> Iterator[None]:
    """transformers' table of keys that do not fit stays unsaid: the error that follows says it in a sentence."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_error)  # its level stays: at "error" transformers prints another table
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _check_tied(path, stored: Mapping) -> None:
    """CheckpointError when an output table is stored beside the input table, with other values."""
    tables = []
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        with safe_open(stored[name].file, "pt") as weights:
            tables.append(weights.get_tensor(name))
    if not torch.equal(*tables):
        raise CheckpointError(
            f"{path}: config.json says tie_word_embeddings, and lm_head.weight is not model.embed_tokens.weight; set "
            "tie_word_embeddings to false."
        )
