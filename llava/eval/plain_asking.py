"""The plain way to ask: every prompt by itself through `generate`, every option through the whole model.

For methods that reduce tokens inside the language model, where prompts share nothing, and as the measure of `asking`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llava.eval.asking import Asked, Said, option_ids, prompt_ids


@torch.inference_mode()
def ask_plainly(model, tokenizer, video, asked: Sequence[Asked]) -> list[Said]:
    """As `asking.ask`. video: `VideoFeatures`, compressed by ``model.config.aot`` at every question."""
    return [_ask(model, tokenizer, video, a) for a in asked]


def _ask(model, tokenizer, video, asked: Asked) -> Said:
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
    scores = [_likelihood(model, video, ids, option_ids(option, tokenizer)) for option in asked.options]
    best = asked.options[scores.index(max(scores))] if scores else None
    return Said(tokenizer.decode(out[0], skip_special_tokens=True).strip(), best)


def _likelihood(model, video, ids: torch.Tensor, reply: list[int]) -> float:
    """Logarithm of the chance of a whole reply to the prompt (1, L)."""
    whole = torch.cat([ids, ids.new_tensor([reply])], 1)
    logits = model(whole, images=[video], modalities=["video"], logits_to_keep=len(reply) + 1).logits[0, :-1]
    chances = logits.float().log_softmax(-1)
    return sum(chances[i, token].item() for i, token in enumerate(reply))
