"""Received attention and keys of single layers of vLLM's SigLIP, beside the fused attention that it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from vllm.distributed import tensor_model_parallel_all_reduce

from ..ops.received_attention import needed_layers, received_attention


class Capture:
    """Outputs of tower layers by the names that `aot.compress` takes them by.

    needs: names out of "shallow", "deep", "attention_last" and "keys". used: tower layers in use. Nothing is
    computed outside `reading`, so images cost what they always did.
    """

    def __init__(self, tower: nn.Module, needs: Sequence[str], used: int):
        self._outputs: dict[str, torch.Tensor] | None = None
        for name, layer in needed_layers(needs, used).items():
            attention = tower.vision_model.encoder.layers[layer].self_attn
            attention.attn.register_forward_pre_hook(partial(self._read, name, attention))

    @contextmanager
    def reading(self) -> Iterator[dict[str, torch.Tensor]]:
        """A dict that holds, after the tower's pass inside, received attention (F, N) and keys (F, N, d)."""
        self._outputs = outputs = {}
        try:
            yield outputs
        finally:
            self._outputs = None

    def _read(self, name: str, attention: Any, fused: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Before the fused attention of one layer; inputs: queries, keys and values (F, N, heads·d)."""
        if self._outputs is None:
            return
        heads = attention.num_heads_per_partition
        queries, keys = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in inputs[:2])
        value = keys.mean(dim=1) if name == "keys" else received_attention(queries, keys, attention.scale)
        if attention.tp_size > 1:  # every rank has its share of the heads
            value = tensor_model_parallel_all_reduce(value.contiguous()) / attention.tp_size
        self._outputs[name] = value
