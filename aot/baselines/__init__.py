"""Other methods behind the same call; importing this package registers them."""

from . import dycoke, evs, fastvid, flashvid, floors, holitom, in_llm, ott_vid, prunevid, vidcom2, visionzip

__all__ = [
    "dycoke",
    "evs",
    "fastvid",
    "flashvid",
    "floors",
    "holitom",
    "in_llm",
    "ott_vid",
    "prunevid",
    "vidcom2",
    "visionzip",
]
