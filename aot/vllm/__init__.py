"""A plugin for vLLM: LLaVA-OneVision whose videos are compressed before they enter the language model.

vLLM finds `register` by its entry point; vllm itself is imported in no module of `aot` but those here, and
here only when vLLM asks for them.
"""

ARCHITECTURE = "AOTLlavaOnevisionForConditionalGeneration"


def register() -> None:
    """Makes the architecture known to vLLM; called once or oftener in each of its processes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .startup import CheckedSettings

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"aot.vllm.model:{ARCHITECTURE}")
    MODELS_CONFIG_MAP[ARCHITECTURE] = CheckedSettings
