"""Qwen2 with a SigLIP tower: the model class of LLaVA-OneVision and LLaVA-Video checkpoints."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast

from aot.integrations.kv_cache import take_cache
from aot.methods.in_llm import is_in_llm
from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig, check_fields
from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.loading import HARMLESS, UNUSED, check_finite, check_keys, quiet_report
from llava.model.pruning import CACHE, run_pruned
from llava.model.visual_tokens import left_align

__all__ = ["LlavaQwenConfig", "LlavaQwenForCausalLM", "LlavaQwenModel"]


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):
    config_class = LlavaQwenConfig

    def forward(self, input_ids: torch.LongTensor | None = None, *, roles: torch.Tensor | None = None, **kwargs):
        """As Qwen2's; with roles (B, L) of `llava.model.pruning.Role`, visual tokens are dropped on the way."""
        cache = take_cache(kwargs)
        if roles is not None or hasattr(cache, "pruned_prompt"):
            output = run_pruned(self, roles, cache, config=self.config.aot, input_ids=input_ids, **kwargs)
            if output is not None:
                return output
        return super().forward(input_ids=input_ids, **{CACHE: cache}, **kwargs)


class LlavaQwenForCausalLM(LlavaMetaForCausalLM, Qwen2ForCausalLM):
    config_class = LlavaQwenConfig

    def __init__(self, config: LlavaQwenConfig):
        super(Qwen2ForCausalLM, self).__init__(config)
        check_fields(config)
        self.model = LlavaQwenModel(config)
        self._keys_to_ignore_on_load_unexpected = [*HARMLESS, *self.get_vision_tower().unused_keys]
        self._keys_to_ignore_on_load_missing = [UNUSED]
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_statistics()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, but a checkpoint whose keys do not all fit, or with a value that is not finite, raises
        CheckpointError, and no code that comes with it is run.

        A tower or projector left at random values would answer fluently and wrongly.
        """
        kwargs.setdefault("ignore_mismatched_sizes", True)  # reported below, with the other kinds
        path, kwargs["trust_remote_code"] = pretrained_model_name_or_path, False
        with quiet_report():
            model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        check_keys(
            path,
            missing=info["missing_keys"],
            unknown=info["unexpected_keys"],
            mismatched=info["mismatched_keys"],
        )
        check_finite(path, model.state_dict())
        return (model, info) if output_loading_info else model

    def get_model(self) -> LlavaQwenModel:
        return self.model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        images=None,
        image_sizes=None,
        modalities: list[str] | str = ("image",),
        roles: torch.LongTensor | None = None,
        retentions: list[float | None] | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits and loss; ``images`` and its companions as in `prepare_inputs_labels_for_multimodal`.

        past_key_values: the cache, which may come as ``cache`` too; both names hold for every release of transformers.
        With ``inputs_embeds`` everything goes to Qwen2 as it is, 4-D attention masks and position ids
        included. roles: ``last_roles`` of the call that prepared the embeddings, needed with ``inputs_embeds``
        where the method in ``config.aot`` drops tokens inside the model; logits at dropped places are those of
        a hidden state of 0. Raises ValueError when it is missing.
        """
        cache = take_cache(kwargs, past_key_values)
        decoding = inputs_embeds is None and input_ids is not None and input_ids.shape[1] == 1 and _seen(cache)
        if inputs_embeds is None and not decoding:
            input_ids, position_ids, attention_mask, cache, inputs_embeds, labels = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids,
                    position_ids,
                    attention_mask,
                    cache,
                    labels,
                    images,
                    modalities,
                    image_sizes,
                    retentions,
                )
            )
            roles = roles if inputs_embeds is None else self.last_roles
        elif roles is None and is_in_llm(self.config.aot) and not _seen(cache):
            raise ValueError(
                f"Method {self.config.aot.method!r} must know which embeddings are visual; "
                "pass roles=model.last_roles of the call that prepared them."
            )
        if roles is not None:
            kwargs["roles"] = roles
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{CACHE: cache},
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        images=None,
        image_sizes=None,
        modalities: list[str] | str = ("image",),
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        """New tokens (B, new) for prompt ids (B, L); the prompt is not repeated in the output.

        images, image_sizes, modalities: as in `prepare_inputs_labels_for_multimodal`. Rows of unequal length
        are generated from left-padded embeddings whatever side the prompt is padded on. Behind a cache that holds
        something already, the ids are what follows. Other arguments go to transformers' generate. Raises ValueError for
        missing prompts, or a video prompt without images.
        """
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        if inputs is None or "inputs_embeds" in kwargs:
            raise ValueError("generate() takes prompt token ids as inputs=(batch, length); inputs_embeds is not taken.")
        position_ids = kwargs.pop("position_ids", None)
        _, position_ids, attention_mask, _, embeds, _ = self.prepare_inputs_labels_for_multimodal(
            inputs, position_ids, attention_mask, None, None, images, modalities, image_sizes
        )
        roles = self.last_roles
        if embeds is None:
            embeds, roles = self.get_model().embed_tokens(inputs), None
        if roles is None and is_in_llm(self.config.aot):
            roles = torch.zeros_like(embeds[..., 0], dtype=torch.long)
        if attention_mask is None:
            attention_mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        elif len(embeds) > 1:
            attention_mask, embeds, position_ids, roles = left_align(attention_mask, embeds, position_ids, roles)
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        if roles is not None:
            kwargs["roles"] = roles
        if _seen(cache := take_cache(kwargs)):  # the whole prompt is asked for, and cut to what the cache does not hold
            held = cache.get_seq_length()
            embeds = torch.nn.functional.pad(embeds, (0, 0, held, 0))
            attention_mask = torch.nn.functional.pad(attention_mask, (held, 0), value=1)
        if cache is not None:
            kwargs[CACHE] = cache
        return super().generate(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)


def _seen(cache) -> bool:
    return cache is not None and cache.get_seq_length() > 0


AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM, exist_ok=True)
