"""What vLLM asks about an architecture before it starts anything: here, whether the settings can be served."""

from vllm.config import VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from .settings import VideoSettings


class CheckedSettings(VerifyAndUpdateConfig):
    """Ends the start with an AOTError; changes nothing."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        model = vllm_config.model_config
        VideoSettings.read(model.hf_config).check_context(model.max_model_len)
