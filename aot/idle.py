"""Settings that change nothing beside the others. Naming one is an error, not a knob without effect."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import AOTError
from .registry import get_method

if TYPE_CHECKING:
    from .config import AOTConfig

# what every method reads; the other fields belong to "aot"
_COMMON = ("retention", "method", "options", "newlines", "backend", "num_anchors")
_JOINT_ONLY = ("attention_power", "change_power", "temporal_weight", "uniform_share")
_CASCADE_ONLY = (
    "supplier_mass",
    "hard_blend",
    "inter_frame",
    "inter_scale",
    "keep_ratio",
    "dynamic_rule",
    "dynamic_threshold",
    "temporal_sigma",
    "emission",
)
# keep_ratio and inter_scale may stay: the released code takes them where it leaves the step out
_INTER_FRAME = (
    "dynamic_rule",
    "dynamic_threshold",
    "temporal_sigma",
    "clips",
    "clip_length",
    "clip_threshold",
    "clip_cuts",
)


class IdleSetting(AOTError):
    """A setting without effect. name: which."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} has no effect {reason}; leave it out.")
        self.name = name


def idle_settings(config: "AOTConfig") -> Iterator[tuple[str, str]]:
    """Names of settings that change nothing in this configuration, each with the reason as half a sentence."""
    if config.method != "aot":
        # a stream of any method is cut in clips of clip_length
        read = _COMMON if get_method(config.method).inside else (*_COMMON, "clip_length")
        reason = f"under method {config.method!r}"
        yield from ((name, reason) for name in config.__dataclass_fields__ if name not in read)
        return
    cascade = config.schedule == "cascade"
    other = _JOINT_ONLY if cascade else _CASCADE_ONLY
    yield from ((name, f"in schedule {config.schedule!r}") for name in other)
    if cascade and not config.inter_frame:
        yield from ((name, "where inter_frame is False") for name in _INTER_FRAME)
    if config.clips == "uniform":
        yield from ((name, "where clips is 'uniform'") for name in ("clip_threshold", "clip_cuts"))
    elif cascade:
        yield "clip_length", "where clips is 'dynamic' in schedule 'cascade'"
    if not cascade and config.uniform_share == 0:
        yield from ((name, "where uniform_share is 0") for name in ("iterations", "stop", "tolerance"))
    if config.stop == "never":
        yield "tolerance", "where stop is 'never'"
    unused = "keep_ratio" if config.dynamic_rule == "threshold" else "dynamic_threshold"
    yield unused, f"where dynamic_rule is {config.dynamic_rule!r}"
    if config.merge_strength == 0 and not (cascade and config.inter_frame and config.inter_scale > 0):
        yield "merge_cap", "where merge_strength is 0"
    if config.merge_cap == 0:
        yield "merge_strength", "where merge_cap is 0"
        yield "inter_scale", "where merge_cap is 0"


def refuse_idle(config: "AOTConfig") -> None:
    """IdleSetting for the first setting that has no effect and is not at its default."""
    for name, reason in idle_settings(config):
        if getattr(config, name) != config.__dataclass_fields__[name].default:
            raise IdleSetting(name, reason)
