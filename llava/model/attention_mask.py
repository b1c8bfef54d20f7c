"""Attention masks in the form that each attention implementation of transformers takes."""

import torch


def attention_mask_for(config, valid: torch.Tensor, hidden: torch.Tensor, *, full: bool) -> torch.Tensor | None:
    """Causal mask for the last tokens of sequences of keys, padding hidden.

    valid: (B, K) bool, which keys are tokens. hidden: (B, Q, D), the queries, the last Q of the keys. full: every key
    is a token, known beforehand. Returns None where none is needed, (B, K) int64 for flash attention, bool
    (B, 1, Q, K) for sdpa, and an additive one of hidden's dtype for eager. A padding token sees itself, so that no
    softmax is empty. Raises ValueError for another implementation.
    """
    kind = config._attn_implementation
    queries, keys = hidden.shape[1], valid.shape[1]
    if kind == "flash_attention_2":
        return None if full else valid.long()
    if kind not in ("sdpa", "eager"):
        raise ValueError(f"Tokens cannot be dropped inside the model under {kind!r} attention; load it with 'sdpa'.")
    # without a mask sdpa is causal when it has several queries, counted from the first key
    if kind == "sdpa" and full and (queries == 1 or queries == keys):
        return None
    place = torch.arange(keys, device=valid.device)
    asking = place[keys - queries :].unsqueeze(1)
    seen = (place <= asking) & valid.unsqueeze(1) | (place == asking)
    seen = seen.unsqueeze(1)
    if kind == "sdpa":
        return seen
    return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
