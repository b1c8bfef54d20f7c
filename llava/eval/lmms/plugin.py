"""The model ids that lmms-eval finds through the entry point group ``lmms_eval.models``."""

from lmms_eval.models.registry_v2 import ModelManifest

_CLASSES = {
    # ours: with the method's settings, a response store and a record of every question
    "llava_onevision_aot": "llava.eval.lmms.llava.LlavaOneVisionAOT",
    "llava_vid_aot": "llava.eval.lmms.llava.LlavaVidAOT",
    "qwen2_5_vl_aot": "llava.eval.lmms.families.Qwen25VLAOT",
    "qwen3_vl_aot": "llava.eval.lmms.families.Qwen3VLAOT",
    "internvl_aot": "llava.eval.lmms.families.InternVLAOT",
    # lmms-eval's own code, which runs as it is until something goes wrong, and then ends instead of going on
    "llava_onevision": "llava.eval.lmms.stock.LlavaOneVision",
    "llava_vid": "llava.eval.lmms.stock.LlavaVid",
}


def manifests() -> list[ModelManifest]:
    """One manifest a model id."""
    return [ModelManifest(model_id=name, simple_class_path=path) for name, path in _CLASSES.items()]
