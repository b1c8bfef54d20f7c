"""All prompts about one video in one pass; what they share goes through the language model once.

The prompts agree up to and including the visual tokens. Behind one copy of this prefix all prompts, options and
replies are packed into a single sequence of branches: a token sees the prefix, the branches its own one grew from and
its own, at the positions it would have alone. So every reply is what `generate_plain` gives, without a key of the
prefix being computed or copied twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch

from llava.chat.prompt import Message, PromptStyle
from llava.chat.prompt import prompt_ids as chat_ids
from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.pruning import CACHE


@dataclass(frozen=True)
class Query:
    """One prompt, the longest reply in tokens, and options whose likelihood as the whole reply is asked for.

    expected: other replies that are likely; one that comes costs no further pass through the model.
    """

    prompt: str
    new_tokens: int
    options: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """The greedy reply, and the likeliest option (None without options)."""

    text: str
    likeliest: str | None = None


def prompt_ids(prompt: str, tokenizer) -> list[int]:
    """A prompt about a video as the model reads it, with one `IMAGE_TOKEN_INDEX`."""
    asked = [Message("user", prompt, ("video",))]
    return chat_ids(asked, tokenizer, template="qwen_1_5", style=PromptStyle(), times={}).tolist()


def option_ids(option: str, tokenizer) -> list[int]:
    """An option as a whole reply, its end included."""
    return tokenizer(f"{option}<|im_end|>").input_ids


class Branches:
    """A growing tree of token sequences in one key-value cache; branch 0 is the shared prefix.

    `fork` opens a branch, `push` puts tokens behind one, `run` takes all that was pushed through the model at once.
    """

    def __init__(self, model, prefix: torch.Tensor):
        """prefix: (L, D) embeddings."""
        self.model, self.device = model, prefix.device
        self.cache = model(inputs_embeds=prefix[None], use_cache=True, logits_to_keep=1)[CACHE]
        self.owner = torch.zeros(len(prefix), dtype=torch.long, device=self.device)  # (K,) branch of every key
        self.position = torch.arange(len(prefix), device=self.device)  # (K,)
        self.seen = [{0}]  # per branch, the branches that it sees
        self.length = [len(prefix)]  # per branch, with what it grew from
        self.pending: list[tuple[int, int, int]] = []  # token, branch, position

    def fork(self, parent: int = 0) -> int:
        """A new branch behind the last token of ``parent``."""
        self.seen.append({*self.seen[parent], len(self.seen)})
        self.length.append(self.length[parent])
        return len(self.seen) - 1

    def push(self, branch: int, tokens: Sequence[int]) -> list[int]:
        """Appends tokens to a branch; returns their rows in the logits of the next `run`."""
        first, start = len(self.pending), self.length[branch]
        self.pending += [(token, branch, start + i) for i, token in enumerate(tokens)]
        self.length[branch] += len(tokens)
        return list(range(first, len(self.pending)))

    def run(self, rows: list[int]) -> torch.Tensor:
        """Float32 logits (len(rows), vocabulary) behind those of the tokens pushed since the last run."""
        ids, owner, position = torch.tensor(self.pending, device=self.device).unbind(1)
        self.pending = []
        self.owner, self.position = torch.cat([self.owner, owner]), torch.cat([self.position, position])
        logits = self.model(
            inputs_embeds=self.model.get_model().embed_tokens(ids)[None],
            attention_mask=self._mask(owner, position),
            position_ids=position[None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(rows, device=self.device),
        ).logits
        return logits[0].float()

    def _mask(self, owner: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """(1, 1, Q, K) to be added to the scores: 0 where a query sees a key, else the lowest number."""
        seen = torch.zeros(len(self.seen), len(self.seen), dtype=torch.bool)
        for branch, others in enumerate(self.seen):
            seen[branch, list(others)] = True
        visible = seen.to(self.device)[owner][:, self.owner] & (self.position <= position[:, None])
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[None, None]


@torch.inference_mode()
def query(model, tokenizer, visual: torch.Tensor, asked: Sequence[Query]) -> list[Reply]:
    """Answers several prompts about one video. visual: (S, D) tokens of `model.video_tokens`."""
    rows = [prompt_ids(a.prompt, tokenizer) for a in asked]
    mark = rows[0].index(IMAGE_TOKEN_INDEX)
    head = model.get_model().embed_tokens(torch.tensor(rows[0][:mark], device=visual.device))
    tree = Branches(model, torch.cat([head, visual.to(head)]))
    prompts = [tree.fork() for _ in rows]
    last = [tree.push(branch, row[mark + 1 :])[-1] for branch, row in zip(prompts, rows, strict=True)]
    drafts = [_Draft(i, o, option_ids(o, tokenizer)) for i, a in enumerate(asked) for o in (*a.options, *a.expected)]
    # rows behind which a draft's tokens are expected; its end predicts nothing
    places = [[last[d.row], *tree.push(tree.fork(prompts[d.row]), d.ids[:-1])] for d in drafts]
    rows = sorted({*last, *(row for place in places for row in place)})
    chances = tree.run(rows).log_softmax(-1)
    at = {row: i for i, row in enumerate(rows)}
    # the likeliest option, and what the model says behind each beginning of a draft
    likelihood, likeliest, best = {}, {}, chances.argmax(-1).tolist()
    following = {(i, ()): best[at[row]] for i, row in enumerate(last)}  # by prompt and what was said so far
    for d, place in zip(drafts, places, strict=True):
        following |= {(d.row, tuple(d.ids[:said])): best[at[row]] for said, row in enumerate(place)}
        chance = sum(chances[[at[row] for row in place], d.ids].tolist())
        if d.text in asked[d.row].options and chance >= likelihood.get(d.row, -math.inf):
            likelihood[d.row], likeliest[d.row] = chance, d.text
    # replies as far as they go along the drafts
    ends = model.generation_config.eos_token_id
    ends = {*ends} if isinstance(ends, list) else {ends}
    replies: list[list[int]] = [[] for _ in asked]
    for i, reply in enumerate(replies):
        while not ends & {*reply} and len(reply) < asked[i].new_tokens and (i, tuple(reply)) in following:
            reply.append(following[i, tuple(reply)])
    # the rest of every reply, its end included, all of them a token further at a time
    pushed = [0] * len(asked)
    while growing := [i for i, r in enumerate(replies) if r[-1] not in ends and len(r) < asked[i].new_tokens]:
        rows = [tree.push(prompts[i], replies[i][pushed[i] :])[-1] for i in growing]
        for i, token in zip(growing, tree.run(rows).argmax(-1).tolist(), strict=True):
            pushed[i] = len(replies[i])
            replies[i].append(token)
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    return [Reply(text.strip(), likeliest.get(i)) for i, text in enumerate(texts)]


@dataclass(frozen=True)
class _Draft:
    """A reply that the prompt with the number ``row`` may get."""

    row: int
    text: str
    ids: list[int]


@torch.inference_mode()
def generate_plain(model, tokenizer, video, asked: Sequence[Query]) -> list[Reply]:
    """As `query`. video: `VideoFeatures`, compressed by ``model.config.aot`` at every question."""
    replies = []
    for one in asked:
        ids = torch.tensor([prompt_ids(one.prompt, tokenizer)], device=model.device)
        out = model.generate(
            ids,
            images=[video],
            modalities=["video"],
            attention_mask=torch.ones_like(ids),
            max_new_tokens=one.new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        best = None
        if one.options:
            chances = likelihoods(model, video, ids, [option_ids(option, tokenizer) for option in one.options])
            best = one.options[chances.index(max(chances))]
        replies.append(Reply(tokenizer.decode(out[0], skip_special_tokens=True).strip(), best))
    return replies


def likelihoods(model, video, ids: torch.Tensor, replies: Sequence[list[int]]) -> list[float]:
    """Logarithm of the chance of each whole reply to the prompt (1, L), which goes through the model once."""
    prompt = model(ids, images=[video], modalities=["video"], use_cache=True, logits_to_keep=1)
    found = []
    for reply in replies:
        logits = prompt.logits[0]
        if len(reply) > 1:
            behind = model(ids.new_tensor([reply[:-1]]), past_key_values=deepcopy(prompt[CACHE]))
            logits = torch.cat([logits, behind.logits[0]])
        chances = logits.float().log_softmax(-1)
        found.append(sum(chances[i, token].item() for i, token in enumerate(reply)))
    return found
