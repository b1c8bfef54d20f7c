"""Video language model compatible with LLaVA-NeXT's SigLIP + Qwen2 checkpoints.

Importing the package makes ``model_type: llava_qwen`` known to ``transformers.AutoConfig``; the model class
joins ``AutoModelForCausalLM`` when ``llava.model.language_model.llava_qwen`` is imported (the loader does
so), which keeps a bare ``import llava`` free of the modelling code.
"""

from aot.deprecated import find_modules
from llava.moved import MODULES
from llava.utils import gc_disabled

find_modules(MODULES)

with gc_disabled():
    from transformers import AutoConfig

    from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig

AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig, exist_ok=True)
