"""Only the configuration class: evaluation wrappers import it, no Llama model is offered."""

from transformers.models.llama.configuration_llama import LlamaConfig


class LlavaConfig(LlamaConfig):
    """Configuration of LLaVA-NeXT's Llama models (``model_type: llava_llama``)."""

    model_type = "llava_llama"
