"""Received attention against a full map, and the layers that are read."""

import math

import pytest
import torch

from aot import AOTError, layers
from aot.ops import received_attention
from aot.ops.received_attention import MAP_VALUES


@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
def test_received_attention_against_a_full_map(chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setitem(MAP_VALUES, "cpu", chunk * 2 * 3 * 23)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 23, 8, generator=generator) for _ in range(2))
    scale = 1 / math.sqrt(8)
    expected = (q.double() @ k.double().transpose(2, 3) * scale).softmax(-1).mean(1).sum(1)
    received = received_attention(q, k, scale)
    assert received.dtype == torch.float32
    torch.testing.assert_close(received.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(received.sum(1), torch.full((2,), 23.0))
    sums = (q @ k.transpose(2, 3) * scale).logsumexp(-1)  # as fused attention leaves them
    torch.testing.assert_close(received_attention(q, k, scale, lse=sums), received)


def test_received_attention_takes_strided_half_precision():
    q = torch.randn(2, 9, 4, 8).bfloat16().transpose(1, 2)
    received = received_attention(q, q, 0.3)
    torch.testing.assert_close(received, received_attention(q.float().contiguous(), q.float(), 0.3))


def test_received_attention_is_the_same_in_the_callers_autocast():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = received_attention(q, k, 0.35)
    assert torch.equal(cast, received_attention(q, k, 0.35))


def test_layers():
    assert layers(26) == (5, 24)
    assert layers(5) == (1, 3)
    for depth in range(2, 60):
        shallow, deep = layers(depth)
        assert abs(shallow - 0.2 * (depth - 1)) <= 0.5 and deep == depth - 2
    with pytest.raises(AOTError, match="at least 2"):
        layers(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: received_attention(torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 5), 1.0), "equal B, H and d"),
        (lambda: received_attention(*[torch.rand(1, 2, 3, 4)] * 2, 1.0, backend="triton"), "triton"),
        (lambda: received_attention(*[torch.rand(1, 2, 3, 4)] * 2, 1.0, backend="cuda"), "Unknown backend"),
    ],
)
def test_bad_calls_name_the_trouble(call, message):
    with pytest.raises(AOTError, match=message):
        call()
