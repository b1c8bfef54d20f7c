"""Reads attention of single layers of a vision tower through hooks, while the tower runs as it always does.

The hooks stay silent unless a call is inside `capturing`; what it asks for lives in a context variable, so
that concurrent calls do not see each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import AOTError
from ..ops.received_attention import needed_layers, received_attention
from ..spatial_pooling import pool_tokens

_store: ContextVar[dict[str, Any] | None] = ContextVar("aot_capture", default=None)


def watch(module: nn.Module, name: str) -> RemovableHandle:
    """Keeps the module's output under `name` whenever a call asks for it."""
    return module.register_forward_hook(partial(_keep, name))


def _keep(name: str, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
    store = _store.get()
    if store is not None and name in store:
        store[name] = output


def _keep_call(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
    store = _store.get()
    if store is not None and name in store:
        store[name] = args, kwargs


@contextmanager
def capturing(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A dict that holds what the modules watched under `names` gave or got in the forward pass inside."""
    store = dict.fromkeys(names)
    token = _store.set(store)
    try:
        yield store
    finally:
        _store.reset(token)


def captured() -> dict[str, Any] | None:
    """What the call of `capturing` around this one holds so far, None outside of one."""
    return _store.get()


def attention_layers(tower: nn.Module) -> list[nn.Module]:
    """The self-attention modules of a SigLIP, CLIP or InternViT tower in order; AOTError for any other."""
    encoder = next((m.encoder for m in tower.modules() if hasattr(m, "encoder")), None)
    stack = getattr(encoder, "layers", getattr(encoder, "layer", ()))
    found = [getattr(layer, "self_attn", getattr(layer, "attention", None)) for layer in stack]
    if not found or not all(hasattr(a, name) for a in found for name in ("q_proj", "k_proj", "num_heads")):
        raise AOTError(f"The vision tower {type(tower).__name__} is not supported; use a model with a SigLIP tower.")
    return found


def watch_attention(layers: Sequence[nn.Module]) -> list[RemovableHandle]:
    """Keeps what the attention of every layer is called with, (args, kwargs), under its name when a call asks for it.

    Adapters may later take the place of its projections.
    """
    return [
        attention.register_forward_pre_hook(partial(_keep_call, f"attention{number}"), with_kwargs=True)
        for number, attention in enumerate(layers)
    ]


class Reader:
    """Which layers of a tower give the outputs that a method needs, and what these outputs are.

    needs: names out of "shallow", "deep", "attention_last" and "keys". used: tower layers in use.
    """

    def __init__(self, tower: nn.Module, needs: Sequence[str], used: int):
        self.attention = attention_layers(tower)
        self.layers = needed_layers(needs, used)

    @property
    def names(self) -> list[str]:
        """What `capturing` must be asked for."""
        return sorted({f"attention{layer}" for layer in self.layers.values()})

    @torch.no_grad()
    def read(self, captured: Mapping[str, Any], *, skip: int) -> dict[str, torch.Tensor]:
        """By name: received attention (F, N) float32, keys (F, N, d) as mean over heads.

        captured: what the layers' attention was called with, on skip + N tokens. skip: class tokens in front, which are
        left out.
        """
        outputs = {}
        for name, layer in self.layers.items():
            keys = self._heads("k", captured, layer)
            if name == "keys":
                value = keys.mean(dim=1)
            else:
                value = received_attention(self._heads("q", captured, layer), keys, keys.shape[-1] ** -0.5)
            outputs[name] = value[:, skip:]
        return outputs

    def _heads(self, side: str, captured: Mapping[str, Any], layer: int) -> torch.Tensor:
        """(F, H, N, d) queries or keys, behind the norm that InternViT has for them."""
        attention, (args, kwargs) = self.attention[layer], captured[f"attention{layer}"]
        projected = getattr(attention, f"{side}_proj")(args[0] if args else kwargs["hidden_states"])
        normed = getattr(attention, f"{side}_norm", nn.Identity())(projected)
        return normed.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def reader_of(inner: Any, call: Mapping[str, Any], needs: Sequence[str]) -> tuple[Reader, int]:
    """What to read from the `vision_tower` of a model in this call, and how many class tokens to leave out."""
    layer, strategy = (
        getattr(inner.config, name) if call.get(name) is None else call[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    total = len(attention_layers(inner.vision_tower))
    used = max(index if index >= 0 else total + 1 + index for index in ([layer] if isinstance(layer, int) else layer))
    return Reader(inner.vision_tower, needs, used), int(strategy == "default")


def merged(outputs: Mapping[str, torch.Tensor], grid: tuple[int, int], stride: int) -> dict[str, torch.Tensor]:
    """Outputs (F, N, ...) of a tower's patches by the tokens that stride·stride of them make, (F, P, ...).

    grid: (H, W) of the N patches. A token's received attention is the sum over its patches, its key their mean.
    """
    pooled = {name: pool_tokens(value, grid, f"average/{stride}") for name, value in outputs.items()}
    return {name: value if name == "keys" else value * stride**2 for name, value in pooled.items()}
