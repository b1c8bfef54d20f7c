"""Loading in few bits: the language model alone, so that the token reduction reads what it always reads."""

from importlib.util import find_spec
from pathlib import Path

from llava.model.loading import CheckpointError, reason_of

FEW_BITS = ("8bit", "4bit", "int8")  # names of what `few_bits` is asked for
KEPT = ["model.vision_tower", "model.mm_projector", "lm_head"]


def few_bits(eight: bool, four: bool, int8: bool):
    """The configuration that transformers quantises by while it loads, or None.

    eight, four: 8-bit or 4-bit (NF4) by bitsandbytes. int8: weights in int8 by torchao. Raises CheckpointError for
    more than one, and where the library is not installed.
    """
    if eight + four + int8 > 1:
        raise CheckpointError("load_8bit, load_4bit and load_int8 exclude each other; set one of them.")
    if not (eight or four or int8):
        return None
    library = "torchao" if int8 else "bitsandbytes"
    if find_spec(library) is None:
        raise CheckpointError(f"Loading in few bits needs {library}; run pip install {library}.")
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=KEPT)
    import torch
    from transformers import BitsAndBytesConfig

    if eight:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        llm_int8_skip_modules=KEPT,
    )


def load_quantised(folder: Path, model_class: type, settings: dict, **arguments):
    """A checkpoint that is quantised already, as transformers loads it; CheckpointError where it cannot be had here.

    settings: its quantization_config.
    """
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        AutoQuantizationConfig.from_dict(settings)  # else a method that is not known would be loaded as if it were none
        return model_class.from_pretrained(folder, use_safetensors=True, **arguments)
    except CheckpointError:
        raise
    except (ImportError, OSError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        reason = reason_of(error).split(" - ")[0]
        raise CheckpointError(
            f"{folder} is quantised ({settings.get('quant_method')}), which cannot be loaded here ({reason}); use the "
            "original checkpoint in float16 or bfloat16."
        ) from error
