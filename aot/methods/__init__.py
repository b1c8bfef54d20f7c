"""All methods, a file each; importing this package registers them."""

from . import (  # noqa: F401
    aot,
    aot_paper,
    dycoke,
    evs,
    fastvid,
    flashvid,
    floc,
    holitom,
    in_llm,
    naive,
    ott_vid,
    pool,
    prunevid,
    stop,
    unicomp,
    vcast,
    vidcom2,
    visionzip,
)
