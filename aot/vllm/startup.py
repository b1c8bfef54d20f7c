"""What vLLM asks about an architecture before it starts anything: here, whether the settings can be served."""

from vllm.config import VllmConfig
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform

from ..errors import AOTError
from .settings import LlavaSettings, VideoSettings


class CheckedLlava(VerifyAndUpdateConfig):
    """Ends the start with an AOTError; changes nothing."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        model = vllm_config.model_config
        LlavaSettings.read(model.hf_config).check_context(model.max_model_len)


class CheckedQwen(VerifyAndUpdateConfig):
    """Ends the start with an AOTError, or tells vLLM that videos are pruned: only then does it compute positions anew.

    The rate itself is read nowhere; `aot.vllm.qwen` says how many tokens are left.
    """

    @classmethod
    def verify_and_update_config(cls, vllm_config: VllmConfig) -> None:
        multimodal = vllm_config.model_config.multimodal_config
        VideoSettings.read(vllm_config.model_config.hf_config)
        refused = {
            "--video-pruning-rate": multimodal.video_pruning_rate,
            "--mm-encoder-tp-mode data": multimodal.mm_encoder_tp_mode == "data",
            "--enable-mm-embeds": multimodal.enable_mm_embeds,
            "compile_mm_encoder": vllm_config.compilation_config.compile_mm_encoder,
            "--speculative-config": vllm_config.speculative_config,  # drafts look the model up by vLLM's names
        }
        for option, given in refused.items():
            if given:
                raise AOTError(f"Compressed videos of a Qwen-VL cannot be served with {option}; leave it out.")
        if not cls.recomputes_positions():
            raise AOTError(
                "On a CPU vLLM does not compute positions anew, as pruned videos of a Qwen-VL need; use a GPU."
            )
        multimodal.video_pruning_rate = 0.5
        own = MODELS_CONFIG_MAP.get(vllm_config.model_config.architecture.removeprefix("AOT"))
        if own is not None:  # vLLM's own check
            own.verify_and_update_config(vllm_config)

    @staticmethod
    def recomputes_positions() -> bool:
        """Does the runner of this machine do so? That of a CPU (0.32.0) leaves it out."""
        return not current_platform.is_cpu()
