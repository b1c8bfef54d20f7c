"""Video language model compatible with LLaVA-NeXT's SigLIP + Qwen2 checkpoints.

Importing the package makes ``model_type: llava_qwen`` known to ``transformers.AutoConfig``; the model class
joins ``AutoModelForCausalLM`` when ``llava.model.language_model.llava_qwen`` is imported (the loader does
so), which keeps a bare ``import llava`` free of the modelling code.
"""

from aot.deprecated import find_modules
from llava.utils import gc_disabled

# modules of the last release under their new names: old name -> new one
_CHAT = ("chat", "demo", "options", "session", "terminal", "visualize")
_WEB = ("web", "web_page", "web_uploads", "web_worker")
MODULES = {
    **{f"llava.serve.{name}": f"llava.chat.{name}" for name in (*_CHAT, *_WEB)},
    **dict.fromkeys(("llava.collector", "llava.shipped", "llava.serve.scratch"), "llava.utils"),
    **dict.fromkeys(("llava.chat.clip", "llava.serve.clip"), "llava.chat.sample_clip"),
    **dict.fromkeys(("llava.serve.encoding", "llava.serve.shared"), "llava.serve.encoder_pool"),
    "llava.serve.family": "llava.chat.prompt",
    "llava.serve.memory": "llava.model.timing",
    **dict.fromkeys(("llava.serve.report", "llava.serve.streaming"), "llava.chat.answer"),
}
find_modules(MODULES)

with gc_disabled():
    from transformers import AutoConfig

    from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig

AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig, exist_ok=True)
