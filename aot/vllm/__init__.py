"""A plugin for vLLM: LLaVA-OneVision and Qwen-VL models, whose videos are compressed before the language model.

vLLM finds `register` by its entry point; vllm itself is imported in no module of `aot` but those here, and
here only when vLLM asks for them.
"""

ARCHITECTURE = "AOTLlavaOnevisionForConditionalGeneration"
# of a configuration's model_type: the architecture, and the module that has it
ARCHITECTURES = {
    "llava_onevision": (ARCHITECTURE, "model"),
    "qwen2_5_vl": ("AOTQwen2_5_VLForConditionalGeneration", "qwen"),
    "qwen3_vl": ("AOTQwen3VLForConditionalGeneration", "qwen"),
    "qwen3_vl_moe": ("AOTQwen3VLMoeForConditionalGeneration", "qwen"),
    "qwen3_5": ("AOTQwen3_5ForConditionalGeneration", "qwen"),
    "qwen3_5_moe": ("AOTQwen3_5MoeForConditionalGeneration", "qwen"),
}


def register() -> None:
    """Makes the architectures known to vLLM; called once or oftener in each of its processes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .startup import CheckedLlava, CheckedQwen

    for architecture, module in ARCHITECTURES.values():
        if architecture not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(architecture, f"{__name__}.{module}:{architecture}")
        MODELS_CONFIG_MAP[architecture] = CheckedQwen if module == "qwen" else CheckedLlava
