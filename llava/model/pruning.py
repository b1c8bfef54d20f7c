"""Dropping visual tokens inside Qwen2 (FastV, PDrop): the first pass over a prompt, and decoding after it.

A layer behind a drop runs on fewer tokens, at their old positions; its key-value cache is shorter than the first
layer's. `PrunedPrompt`, kept on the cache, says what each part of the layers holds, so that decoding masks padding
right and positions go on from the whole prompt's length.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import torch
import torch.nn.functional as F
from transformers import DynamicCache, Qwen2Model
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import rotate_half

from aot import AOTConfig
from aot.integrations.kv_cache import cache_name
from aot.methods.in_llm import prune_stages, seen_by_layer
from aot.ops.common import rank_descending
from llava.constants import IGNORE_INDEX

CACHE = cache_name(Qwen2Model.forward)  # of models, their layers and their outputs


class Role(IntEnum):
    """What a place of the prompt is: visual tokens may be dropped, the query's attention ranks them."""

    TEXT = 0
    VISUAL = 1
    QUERY = 2


def roles_of(rows: list[tuple[torch.Tensor, torch.Tensor]], length: int, *, side: str) -> torch.Tensor:
    """(B, length) int64 of `Role`, padded on the ``side``, from the marks and labels of each row.

    marks: (L, 1), 1 at tokens that may be dropped. labels: (L,). The query is the last token, or the one before the
    first that has a label: an answer given along must not choose what it is answered from.
    """
    padded = []
    for marks, labels in rows:
        answered = labels != IGNORE_INDEX
        query = torch.where(answered.any(), answered.int().argmax() - 1, len(labels) - 1).clamp_min(0)
        role = marks.squeeze(1).long() * int(Role.VISUAL)
        role = role.index_fill(0, query.view(1), int(Role.QUERY))
        room = length - len(role)
        padded.append(F.pad(role, (room, 0) if side == "left" else (0, room)))
    return torch.stack(padded)


@dataclass(frozen=True)
class LayerCounts:
    """Visual tokens of one prompt that each layer of the language model saw."""

    method: str
    visual: int
    seen: list[int]

    @property
    def layer_average(self) -> float:
        """Share of the visual tokens that a layer saw, averaged over layers: what in-LLM methods report."""
        return sum(self.seen) / (len(self.seen) * self.visual)


@dataclass(frozen=True)
class Span:
    """Layers from `first` on, up to the next span's, and the prompt's places that they see.

    places: (B, K) int64 in ascending order; where valid (B, K) bool is False, padding. full: no padding at all.
    """

    first: int
    places: torch.Tensor
    valid: torch.Tensor
    full: bool


@dataclass(frozen=True)
class PrunedPrompt:
    """Left on a cache by the first pass. length: places of the whole prompt. spans: by depth."""

    length: int
    spans: list[Span] = field(default_factory=list)


def run_pruned(
    model,
    roles: torch.Tensor | None,
    cache: DynamicCache | None,
    *,
    config: AOTConfig | None,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    use_cache: bool | None = None,
    **kwargs,
) -> BaseModelOutputWithPast | None:
    """The forward pass of a Qwen2 ``model`` on fewer and fewer visual tokens; None where nothing is dropped.

    Something may be in the first pass over a prompt with roles, and is in passes that follow one which dropped tokens.
    roles: (B, L) int64 of `Role`; other arguments as in transformers. Sets ``model.last_pruning`` in the first pass.
    Raises ValueError for what dropping cannot be combined with.
    """
    begun = cache is not None and cache.get_seq_length() > 0
    prompt = getattr(cache, "pruned_prompt", None) if begun else None
    if prompt is None and (begun or roles is None):
        return None
    _check_plain(model, attention_mask, cache, kwargs)
    kwargs.pop("cache_position", None)  # transformers 4 passes it; positions say the same
    embeds = model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    shared = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
    if prompt is not None:
        return next_pass(model, embeds, prompt, cache=cache, **shared)
    if use_cache is None:
        use_cache = model.config.use_cache
    if use_cache and cache is None:
        cache = DynamicCache(config=model.config)
    filled = cache if use_cache else None
    output, model.last_pruning = first_pass(model, embeds, roles, config, cache=filled, **shared)
    return output


def _check_plain(model, attention_mask, cache, kwargs: dict) -> None:
    types = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if types != {"full_attention"}:
        raise ValueError("Tokens cannot be dropped inside a model with sliding attention; choose another method.")
    if attention_mask is not None and (not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2):
        raise ValueError("Dropping tokens inside the model takes an attention mask (batch, length), no other form.")
    if cache is not None and not isinstance(cache, DynamicCache):
        raise ValueError(f"Layers of unequal length need a DynamicCache; got a {type(cache).__name__}.")
    if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
        raise ValueError("Layers of unequal length give no stack of hidden states or attentions; do not ask for them.")


def first_pass(
    model,
    embeds: torch.Tensor,
    roles: torch.Tensor,
    config: AOTConfig,
    *,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: DynamicCache | None,
    **kwargs,
) -> tuple[BaseModelOutputWithPast | None, list[LayerCounts]]:
    """Runs the layers of a Qwen2 ``model`` over prompts (B, L, D) and drops visual tokens on the way.

    roles: (B, L) int64 of `Role`. attention_mask: (B, L) or None. cache: an empty one to fill, or None. Returns the
    output, whose hidden states (B, L, D) are 0 at dropped places, or None where nothing is to be dropped; and each
    row's counts, rows without visual tokens left out. Waits for the device once for the counts of tokens.
    """
    batch, length = roles.shape
    layers = len(model.layers)
    valid = torch.ones_like(roles, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    visual, tokens = torch.stack([((roles == Role.VISUAL) & valid).sum(1), valid.sum(1)]).tolist()
    stages = [prune_stages(config, count, layers) if count else () for count in visual]
    counts = [
        LayerCounts(config.method, count, seen_by_layer(row, count, layers))
        for row, count in zip(stages, visual, strict=True)
        if count
    ]
    if all(stage.keep == count for row, count in zip(stages, visual, strict=True) for stage in row):
        return None, counts
    depths = [(stage.layer, stage.look) for stage in max(stages, key=len)]
    places = torch.arange(length, device=embeds.device).expand(batch, -1)
    positions = places if position_ids is None else position_ids.expand(batch, -1)
    spans = [Span(0, places, valid, all(count == length for count in tokens))]
    hidden = embeds
    for step, (depth, look) in enumerate([*depths, (layers, None)]):
        span = spans[-1]
        here = positions.gather(1, span.places)
        rotary = model.rotary_emb(hidden, here)
        mask = attention_mask_for(model.config, span.valid, hidden, full=span.full)
        for layer in range(span.first, depth):
            into_last = hidden
            hidden = _run(model.layers[layer], hidden, mask, here, rotary, cache, kwargs)
        if depth == layers:
            break
        looked = hidden if look == depth else into_last  # what goes into the next layer, or went into the last one
        role = roles.gather(1, span.places)
        score = attention_of_query(model.layers[look], looked, rotary, role == Role.QUERY, span.valid)
        keeps = [row[step].keep if row else 0 for row in stages]
        lengths = [total - count + keep for total, count, keep in zip(tokens, visual, keeps, strict=True)]
        slots, kept = choose(score, role, span.valid, keeps, max(lengths))
        hidden = hidden.gather(1, slots.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        spans.append(Span(depth, span.places.gather(1, slots), kept, min(lengths) == max(lengths)))
    if cache is not None:
        cache.pruned_prompt = PrunedPrompt(length, spans)
    last = spans[-1]
    hidden = model.norm(hidden) * last.valid.unsqueeze(-1)
    whole = hidden.new_zeros(embeds.shape).scatter(1, last.places.unsqueeze(-1).expand_as(hidden), hidden)
    return BaseModelOutputWithPast(last_hidden_state=whole, **{CACHE: cache}), counts


def next_pass(
    model,
    embeds: torch.Tensor,
    prompt: PrunedPrompt,
    *,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: DynamicCache,
    **kwargs,
) -> BaseModelOutputWithPast:
    """Runs the layers over tokens (B, Q, D) that follow a pruned prompt.

    attention_mask: (B, prompt and all tokens since), as in decoding without drops, or None.
    """
    batch, queries = embeds.shape[:2]
    past = cache.get_seq_length()
    since = past - prompt.length + queries
    if attention_mask is None:
        fresh = torch.ones(batch, since, dtype=torch.bool, device=embeds.device)
    else:
        fresh = attention_mask[:, prompt.length :].bool()
    if position_ids is None:
        position_ids = torch.arange(past, past + queries, device=embeds.device).expand(batch, -1)
    rotary = model.rotary_emb(embeds, position_ids)
    hidden = embeds
    ends = [span.first for span in prompt.spans[1:]] + [len(model.layers)]
    for span, end in zip(prompt.spans, ends, strict=True):
        keys = torch.cat([span.valid, fresh], dim=1)
        # a single row has no padding among its new tokens
        full = span.full and (attention_mask is None or batch == 1)
        mask = attention_mask_for(model.config, keys, hidden, full=full)
        for layer in range(span.first, end):
            hidden = _run(model.layers[layer], hidden, mask, position_ids, rotary, cache, kwargs)
    return BaseModelOutputWithPast(last_hidden_state=model.norm(hidden), **{CACHE: cache})


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


def attention_of_query(
    layer, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], query: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """(B, L) float32 attention that one token of each row pays to the tokens up to it, mean over heads.

    layer: a Qwen2 decoder layer. hidden: (B, L, D), what goes into it. rotary: cos and sin (B, L, d) of the
    positions. query: (B, L) bool, True at one token of each row. valid: (B, L) bool.
    """
    attention = layer.self_attn
    batch, length = query.shape
    states = layer.input_layernorm(hidden)
    asking = query.int().argmax(dim=1)

    def turned(projected: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        heads = projected.view(batch, projected.shape[1], -1, attention.head_dim).transpose(1, 2)
        return heads * cos.unsqueeze(1) + rotate_half(heads) * sin.unsqueeze(1)

    row = torch.arange(batch, device=asking.device)
    cos, sin = (part.expand(batch, -1, -1) for part in rotary)
    here = [part[row, asking].unsqueeze(1) for part in (states, cos, sin)]
    asked = turned(attention.q_proj(here[0]), *here[1:])
    keys = turned(attention.k_proj(states), cos, sin)
    asked = asked.view(batch, keys.shape[1], -1, attention.head_dim)  # heads of one key head side by side
    logits = torch.matmul(asked, keys.transpose(2, 3)).float() * attention.scaling
    before = torch.arange(length, device=asking.device) <= asking.unsqueeze(1)
    logits = logits.masked_fill(~(valid & before)[:, None, None], -torch.inf)
    return logits.softmax(dim=-1).mean(dim=(1, 2))


def choose(
    score: torch.Tensor, role: torch.Tensor, valid: torch.Tensor, keeps: list[int], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots (B, length) int64 that go on, in their order and with padding at the end, and which are none, bool.

    score: (B, L). role: (B, L) of `Role`. valid: (B, L) bool. keeps: visual tokens to keep in each row.
    """
    visual = (role == Role.VISUAL) & valid
    rank = rank_descending(score.masked_fill(~visual, -torch.inf))
    wanted = torch.tensor(keeps, device=score.device).unsqueeze(1)
    stays = torch.where(visual, rank < wanted, valid)
    slots = (~stays).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    return slots, stays.gather(1, slots)


def _run(layer, hidden, mask, positions, rotary, cache, kwargs) -> torch.Tensor:
    return layer(
        hidden,
        attention_mask=mask,
        position_ids=positions,
        position_embeddings=rotary,
        **{CACHE: cache},
        **kwargs,
    )
