"""The plain way to ask: every prompt by itself through `generate`, every option behind the whole prompt.

For methods that drop tokens inside the language model, where prompts share nothing, and as the measure of `query`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from llava.eval.exam.query import Query, Reply, option_ids, prompt_ids
from llava.model.pruning import CACHE


@torch.inference_mode()
def generate_plain(model, tokenizer, video, asked: Sequence[Query]) -> list[Reply]:
    """As `query.query`. video: `VideoFeatures`, compressed by ``model.config.aot`` at every question."""
    return [_ask(model, tokenizer, video, a) for a in asked]


def _ask(model, tokenizer, video, asked: Query) -> Reply:
    ids = torch.tensor([prompt_ids(asked.prompt, tokenizer)], device=model.device)
    out = model.generate(
        ids,
        images=[video],
        modalities=["video"],
        attention_mask=torch.ones_like(ids),
        max_new_tokens=asked.new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    best = None
    if asked.options:
        chances = likelihoods(model, video, ids, [option_ids(option, tokenizer) for option in asked.options])
        best = asked.options[chances.index(max(chances))]
    return Reply(tokenizer.decode(out[0], skip_special_tokens=True).strip(), best)


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
