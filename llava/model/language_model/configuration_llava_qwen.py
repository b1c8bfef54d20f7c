"""Configuration of the SigLIP + Qwen2 model; kept apart from the model so that importing it stays cheap."""

from collections.abc import Mapping

from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from aot import AOTConfig


class LlavaQwenConfig(Qwen2Config):
    """Qwen2's settings plus the multimodal ones of the checkpoint (``mm_*``, ``image_*``, ``tokenizer_*``).

    Fields that this project adds:

    ``mm_vision_config``: geometry of the tower as a dict of SiglipVisionConfig fields, where
    ``num_hidden_layers`` counts the layers in the checkpoint (the dropped last layer left out); absent means
    so400m-patch14-384. ``aot``: the token reduction, an AOTConfig or None for none; read at every call. It may be
    assigned as a mapping too, which is validated then (AOTError), and is a dict in config.json.
    """

    model_type = "llava_qwen"

    # Defaults of fields that callers read before any checkpoint has set them.
    mm_vision_config = None
    mm_use_im_start_end = False
    mm_use_im_patch_token = False

    @property
    def aot(self) -> AOTConfig | None:
        return self.__dict__.get("aot")

    @aot.setter
    def aot(self, value: AOTConfig | Mapping | None) -> None:
        parsed = value is None or isinstance(value, AOTConfig)
        self.__dict__["aot"] = value if parsed else AOTConfig.from_dict(value)

    def to_dict(self) -> dict:
        """As in transformers, with the rotary base also under the name that transformers 4 reads."""
        settings = super().to_dict()
        if self.aot is not None:
            settings["aot"] = self.aot.to_dict()
        theta = (settings.get("rope_parameters") or {}).get("rope_theta")
        return settings if theta is None else {**settings, "rope_theta": theta}
