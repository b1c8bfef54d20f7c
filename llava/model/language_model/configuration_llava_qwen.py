"""Configuration of the SigLIP + Qwen2 model; kept apart from the model so that importing it stays cheap."""

from transformers.models.qwen2.configuration_qwen2 import Qwen2Config


class LlavaQwenConfig(Qwen2Config):
    """Qwen2's settings plus the multimodal ones of the checkpoint (``mm_*``, ``image_*``, ``tokenizer_*``).

    Fields that this project adds:

    ``mm_vision_config``: geometry of the tower as a dict of SiglipVisionConfig fields, where
    ``num_hidden_layers`` counts the layers in the checkpoint (the dropped last layer left out); absent means
    so400m-patch14-384. ``aot``: settings of the token reduction as a dict (``AOTConfig.to_dict()``), or None
    for no reduction; read at every call.
    """

    model_type = "llava_qwen"

    # Defaults of fields that callers read before any checkpoint has set them.
    aot = None
    mm_vision_config = None
    mm_use_im_start_end = False
    mm_use_im_patch_token = False

    def to_dict(self) -> dict:
        """As in transformers, with the rotary base also under the name that transformers 4 reads."""
        settings = super().to_dict()
        theta = (settings.get("rope_parameters") or {}).get("rope_theta")
        return settings if theta is None else {**settings, "rope_theta": theta}
