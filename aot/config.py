"""All settings of the method: one frozen, validated dataclass and its presets."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from .checks import check_newline_position, count, number
from .errors import AOTError
from .idle import IdleSetting, refuse_idle
from .ops import BACKENDS
from .registry import get_method, resolve_options

_CHOICES = {
    "schedule": ("joint", "cascade"),
    "newlines": ("frame", "row", "all", "none"),
    "clips": ("uniform", "dynamic"),
    "supplier_mass": ("unit", "normalised", "attention"),
    "stop": ("problem", "batch", "never"),
    "dynamic_rule": ("quantile", "threshold"),
    "emission": ("once", "twice"),
    "backend": BACKENDS,
}
# name: (lowest, highest, lowest excluded)
_RANGES = {
    "global_ratio": (0, 1, False),
    "attention_power": (0, 8, False),
    "change_power": (0, 8, False),
    "spatial_weight": (0, math.inf, False),
    "temporal_weight": (0, math.inf, False),
    "epsilon": (0, math.inf, True),
    "tolerance": (0, 1, True),
    "uniform_share": (0, 1, False),
    "merge_strength": (0, math.inf, False),
    "merge_cap": (0, 1, False),
    "hard_blend": (0, 1, False),
    "inter_scale": (0, math.inf, False),
    "keep_ratio": (0, 1, False),
    "dynamic_threshold": (0, 1, False),
    "temporal_sigma": (0, math.inf, True),
    "clip_threshold": (-1, 1, False),
}
_COUNTS = {"iterations": 1, "clip_cuts": 1}
_OPTIONAL_COUNTS = {"num_anchors": 1, "clip_length": 1}


@dataclass(frozen=True)
class AOTConfig:
    """Settings of `compress`; every field is validated and AOTError (a ValueError) names what to change.

    A setting that differs from its default and has no effect beside the others is refused as well.
    retention: share of the pooled tokens that enter the language model, in (0, 1]; None for presets whose
        counts follow from their own rules (schedule "cascade").
    method, options: a method of the registry and its own options; the fields below belong to "aot".
    newlines: newline tokens kept in grid and frame modes: "frame" one per frame, "row" one per row that kept
        a token, "all" every one of the host model, "none".
    schedule: "joint" chooses the kept tokens once, on the pooled grid, and transports the rest of each clip
        onto them (exact budget); "cascade" is the paper's order: anchors, intra-frame transport, pooling,
        inter-frame transport.

    Clips: clips "uniform" (clip_length frames; None = 4, fewer above 800 tokens, in joint, ceil(T/8) in cascade) or
        "dynamic" (cut where the cosine of adjacent frame means is below clip_threshold, plus the clip_cuts - 1 lowest).
    Anchors: global_ratio is the share chosen by the deep layer over the whole frame (joint: clip), the rest by
        the shallow layer in 3x3 windows.
    Joint choice: each next anchor is the token that lowers most what is left to transport; a token counts
        attention^attention_power · change^change_power there (see docs/method.md).
    Cost: (1 - cos) + spatial_weight·distance (frame sides 1) + temporal_weight·frames apart (joint).
    Transport: entropic with epsilon, at most `iterations` iterations, stopping by `stop` ("problem": each one when
        its marginal error is below tolerance; "batch": the release's rule; "never"); uniform_share (joint)
        mixes uniform anchor marginals with the mass that lies nearest to each anchor.
    Merging: merge_strength is λ, merge_cap bounds the share of a kept token that may come from others.
    Cascade only: num_anchors per frame, inter_frame, inter_scale (λ of the inter-frame step), keep_ratio and
        dynamic_threshold (for dynamic_rule "quantile" and "threshold"), temporal_sigma, emission ("twice"
        emits original and updated anchors), supplier_mass ("unit", "normalised" to a total of 1, "attention":
        by importance, 1 on average), hard_blend (share of the mean of a hard assignment mixed in).
    backend: see `aot.ops`.
    """

    retention: float | None = 0.10
    method: str = "aot"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    newlines: str = "frame"
    schedule: str = "joint"
    clips: str = "uniform"
    clip_length: int | None = None
    clip_threshold: float = 0.9
    clip_cuts: int = 8
    global_ratio: float = 0.5
    attention_power: float = 0.5
    change_power: float = 0.5
    spatial_weight: float = 0.25
    temporal_weight: float = 0.2
    epsilon: float = 0.01
    iterations: int = 100
    stop: str = "problem"
    tolerance: float = 1e-3
    supplier_mass: str = "unit"
    uniform_share: float = 0.0
    merge_strength: float = 1.0
    merge_cap: float = 0.5
    hard_blend: float = 0.0
    num_anchors: int | None = None
    inter_frame: bool = True
    inter_scale: float = 1.0
    keep_ratio: float = 0.3
    dynamic_rule: str = "quantile"
    dynamic_threshold: float = 0.5
    temporal_sigma: float = 1.5
    emission: str = "once"
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise AOTError(f"{name} is {getattr(self, name)!r}; use one of: {', '.join(allowed)}.")
        for name, (low, high, open_low) in _RANGES.items():
            self._set(name, number(name, getattr(self, name), low, high, open_low))
        for name, low in (_COUNTS | _OPTIONAL_COUNTS).items():
            value = getattr(self, name)
            if value is not None or name in _COUNTS:
                self._set(name, count(name, value, low))
        if not isinstance(self.inter_frame, bool):
            raise AOTError(f"inter_frame is {self.inter_frame!r}; use True or False.")
        if self.retention is not None:
            self._set("retention", number("retention", self.retention, 0, 1, True))
        if not isinstance(self.options, Mapping):
            raise AOTError(f"options is {self.options!r}; use a mapping of option names to values.")
        self._set("options", resolve_options(self.method, self.options))
        self._check_counts()
        self._check_schedule()
        refuse_idle(self)

    def _check_counts(self) -> None:
        cascade = self.method == "aot" and self.schedule == "cascade"
        if cascade and self.retention is not None:
            raise AOTError(
                "The released and paper presets have token counts of their own; "
                "leave retention out and set num_anchors, or use the default preset."
            )
        if cascade and self.num_anchors is None:
            raise AOTError("schedule 'cascade' needs num_anchors, the anchors per frame (126 for 10 %).")
        if not cascade and self.num_anchors is not None:
            raise AOTError("num_anchors belongs to schedule 'cascade'; set retention instead.")
        if not cascade and self.retention is None:
            raise AOTError("retention is missing; give the share of tokens to keep, such as 0.1.")

    def _check_schedule(self) -> None:
        if self.method != "aot":
            return
        if self.schedule == "joint" and self.stop == "batch":
            raise AOTError("stop 'batch' is the released rule of schedule 'cascade'; use 'problem' or 'never'.")
        if self.emission == "twice" and self.newlines not in ("all", "none"):
            raise AOTError("emission 'twice' leaves frame order; set newlines to 'all' or 'none'.")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str = "default", **overrides: Any) -> "AOTConfig":
        """A named configuration with changes; AOTError for an unknown name or setting.

        A value of the preset that a change leaves without effect goes back to its default.
        """
        if name not in PRESETS:
            raise AOTError(f"Unknown preset {name!r}; choose one of: {', '.join(PRESETS)}.")
        settings = {**PRESETS[name], **overrides}
        while True:
            try:
                return cls.from_dict(settings)
            except IdleSetting as idle:
                if idle.name in overrides or idle.name not in settings:
                    raise
                del settings[idle.name]

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "AOTConfig":
        """The inverse of `to_dict`; AOTError for keys that are no settings."""
        if not isinstance(settings, Mapping):
            raise AOTError(f"Settings must be a mapping of names to values; got {type(settings).__name__}.")
        known = {f.name for f in fields(cls)}
        unknown = sorted(str(key) for key in settings if key not in known)
        if unknown:
            close = get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {close[0]}? Known are" if close else "known are"
            raise AOTError(f"Unknown setting {', '.join(unknown)}; {hint}: {', '.join(sorted(known))}.")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values; `from_dict` gives an equal configuration back."""
        return asdict(self)

    def replace(self, **changes: Any) -> "AOTConfig":
        """A validated copy with other values."""
        return replace(self, **changes)

    def budget(self, frames: int, tokens_per_frame: int) -> int:
        """Visual tokens kept: max(1, ⌊retention · frames · tokens_per_frame⌋) in decimal arithmetic."""
        frames = count("frames", frames, 1)
        tokens_per_frame = count("tokens_per_frame", tokens_per_frame, 1)
        if self.retention is None:
            raise AOTError(
                "This preset's counts depend on the video and are unknown before it is seen; "
                "use the default preset with a retention for counts in advance."
            )
        return max(1, int(Decimal(str(self.retention)) * (frames * tokens_per_frame)))

    def token_count(
        self,
        frames: int,
        tokens_per_frame: int,
        *,
        newline_position: str = "grid",
        rows: int | None = None,
    ) -> tuple[int, int]:
        """(visual, newline) token counts of a video before any feature exists, by integer arithmetic.

        tokens_per_frame: pooled tokens P. newline_position: the host model's mode. rows: pooled rows H,
        needed only for newlines "all" in grid mode when P is not square.
        Raises AOTError where the count depends on the video: cascade presets, newlines "row". Of a method that
        acts inside the language model, which all tokens enter, the visual count is T·P.
        """
        visual = self.budget(frames, tokens_per_frame)
        if get_method(self.method).inside:
            visual = frames * tokens_per_frame
        return visual, self.newline_count(frames, tokens_per_frame, newline_position=newline_position, rows=rows)

    def newline_count(
        self, frames: int, tokens_per_frame: int, *, newline_position: str = "grid", rows: int | None = None
    ) -> int:
        """Newline tokens of a compressed video; arguments and errors as in `token_count`."""
        check_newline_position(newline_position)
        if newline_position == "no_token":
            return 0
        if newline_position == "one_token":
            return 1
        if self.newlines == "none":
            return 0
        if newline_position == "frame" or self.newlines == "frame":
            return frames
        if self.newlines == "row":
            raise AOTError(
                "newlines='row' follows the rows that keep a token, unknown before the video is seen; "
                "use 'frame', 'all' or 'none' for counts in advance."
            )
        if rows is None:
            rows = math.isqrt(tokens_per_frame)
            if rows * rows != tokens_per_frame:
                raise AOTError(f"{tokens_per_frame} tokens per frame are not square; give rows=H.")
        return frames * rows


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "retention": None,
        "schedule": "cascade",
        "num_anchors": 126,
        "spatial_weight": 0.0,
        "epsilon": 0.1,
        "supplier_mass": "normalised",
        "stop": "never",
        "iterations": 100,
        "merge_cap": 1.0,
        "hard_blend": 0.0,
        "dynamic_rule": "threshold",
        "emission": "once",
    },
    "released": {
        "retention": None,
        "schedule": "cascade",
        "num_anchors": 126,
        "newlines": "all",
        "spatial_weight": 0.5,
        "epsilon": 0.1,
        "supplier_mass": "normalised",
        "stop": "batch",
        "tolerance": 1e-2,
        "iterations": 100,
        "merge_cap": 1.0,
        "hard_blend": 0.1,
        "dynamic_rule": "quantile",
        "emission": "twice",
    },
}
