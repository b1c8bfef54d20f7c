"""All methods, a file each; importing this package registers them."""

from . import (
    aot,
    aot_paper,
    dycoke,
    evs,
    fastvid,
    flashvid,
    holitom,
    in_llm,
    naive,
    ott_vid,
    prunevid,
    vidcom2,
    visionzip,
)

__all__ = [
    "aot",
    "aot_paper",
    "dycoke",
    "evs",
    "fastvid",
    "flashvid",
    "holitom",
    "in_llm",
    "naive",
    "ott_vid",
    "prunevid",
    "vidcom2",
    "visionzip",
]
