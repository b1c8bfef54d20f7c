"""A tower with a class token: it is no place of the frame, and is left out of features and importance alike."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config

import aot

from .conftest import IMAGE, TEXT, VIDEO, VISION, batch, pixels, prompt


@pytest.fixture
def clip_model():
    config = LlavaOnevisionConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        attn_implementation="eager",  # gives its weights
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    return model


@torch.no_grad()
def test_the_class_token_is_left_out(clip_model):
    """Four of five layers are in use, so the importance maps are of layers 1 and 2 and the features of the fourth."""
    video = pixels(1)
    tower, project = clip_model.model.vision_tower, clip_model.model.multi_modal_projector
    output = tower(video, output_hidden_states=True, output_attentions=True)
    features = project(output.hidden_states[-2][:, 1:])
    shallow, deep = (output.attentions[layer].mean(1).sum(1)[:, 1:] for layer in (1, 2))
    expected = aot.compress(features, shallow, deep, aot.AOTConfig(retention=0.2))
    with aot.apply(clip_model, retention=0.2) as applied:
        clip_model(**batch(prompt(5, "video", 7)), pixel_values_videos=video[None])
        (found,) = applied.last
    visual = found.kind != aot.TokenKind.NEWLINE
    assert torch.equal(found.frame[visual], expected.frame) and torch.equal(found.position[visual], expected.position)
    torch.testing.assert_close(found.tokens[visual], expected.tokens, rtol=1e-4, atol=1e-4)
