"""What `Applied` says of the last prompt's videos, and nothing of a prompt before it."""

import pytest
import torch

import aot

from .conftest import FRAMES, SIDE, pixels
from .families import CACHE, FAMILIES, module_of

TEXT = (5, 6, 7, 8)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def said(applied) -> tuple[list[int], bool, float]:
    """(tokens of each video before, whether compressing them took time, share of the tower's operations)."""
    return [one.tokens_before for one in applied.last], applied.seconds > 0, applied.tower_share


NOTHING = ([], False, 1.0)


def still(inputs: dict, name: str) -> dict:
    """The inputs with equal frames, which the tower encodes once."""
    values = inputs[name]
    return {**inputs, name: torch.zeros_like(values)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_without_a_video_has_none(family):
    kit = module_of(family)
    model = kit.make(family)
    asked = kit.prompts(family)
    video, two, image, text = (
        kit.batch(family, parts) for parts in (asked["video"], asked["two videos"], (5, kit.image(), 7), TEXT)
    )
    embeds = model.get_input_embeddings()(video["input_ids"])
    with aot.apply(model, 0.5, tower_reuse=0) as applied:
        first = model(**two, use_cache=True)
        both = said(applied)
        assert len(both[0]) == 2 and both[1]
        mask = torch.ones(1, two["input_ids"].shape[1] + 1, dtype=torch.long)
        step = {"input_ids": torch.tensor([[9]]), "attention_mask": mask}
        model(**step, **{CACHE: first[CACHE]})
        assert said(applied) == both  # a step of one token behind the prompt
        turn = {"input_ids": torch.tensor([TEXT]), "attention_mask": torch.ones(1, mask.shape[1] + 4, dtype=torch.long)}
        model(**turn, **{CACHE: first[CACHE]})
        assert said(applied) == NOTHING
        for ask in (lambda inputs: model(**inputs), lambda inputs: model.generate(**inputs, max_new_tokens=2)):
            for without in (text, image):
                ask(video)
                assert len(applied.last) == 1 and applied.seconds > 0
                ask(without)
                assert applied.last == [] and applied.seconds == 0
            ask(video)
            with pytest.raises(aot.AOTError, match="inputs_embeds"):
                ask({**video, "input_ids": None, "inputs_embeds": embeds})
            assert applied.last == [] and applied.seconds == 0


@pytest.mark.parametrize("family", ["Qwen2VL", "LlavaNextVideo"])
def test_the_tower_share_is_that_of_the_last_prompt(family):
    kit = module_of(family)
    model = kit.make(family)
    video = kit.batch(family, kit.prompts(family)["video"])
    with aot.apply(model, 0.5, tower_reuse=0) as applied:
        model(**still(video, "pixel_values_videos"))
        share = applied.tower_share
        assert share < 1
        applied.trace(video)
        assert applied.tower_share == share and len(applied.last) == 1  # a trace is no prompt
        model(**kit.batch(family, TEXT))
        assert applied.tower_share == 1


def test_our_own_model_says_the_same(ours):
    marked, text = torch.tensor([[5, 6, -200, 9]]), torch.tensor([[5, 6, 7]])
    video = {"images": [pixels(1)], "modalities": "video"}
    images = {"images": [pixels(2, 1)], "modalities": ["image"]}
    before = FRAMES * SIDE * SIDE
    with aot.apply(ours, 0.5) as applied:
        for ask in (ours, lambda ids, **given: ours.generate(ids, **given, max_new_tokens=2)):
            for ids, without in ((text, {}), (marked, images)):
                ask(marked, **video)
                assert said(applied)[:2] == ([before], True)
                ask(ids, **without)
                assert said(applied) == NOTHING
            ask(marked, **video)
            with pytest.raises(ValueError):
                ask(marked)
            assert said(applied) == NOTHING
        found = ours(torch.tensor([[5, -200, -200]]), images=[pixels(1), pixels(2)], modalities="video", use_cache=True)
        ours(torch.tensor([[9]]), past_key_values=found[CACHE])
        assert said(applied)[0] == [before, before]
        ours(text, past_key_values=found[CACHE])
        assert said(applied) == NOTHING
