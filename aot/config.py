"""All settings: one frozen, validated dataclass and its presets."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from .deprecated import current_settings, takes_old_settings
from .errors import AOTError
from .ops import BACKENDS
from .registry import get_method, resolve_options
from .validation import EXACT, check_newline_position, count, count_from, number_in, one_of, read_setting

RETENTION = 0.10  # where neither a share nor a number of tokens is given


class IdleSetting(AOTError):
    """A setting without effect. name: which."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} has no effect {reason}; leave it out.")
        self.name = name


@takes_old_settings
@dataclass(frozen=True)
class AOTConfig:
    """Settings of `compress`; every field is validated and AOTError (a ValueError) names what to change.

    A setting that differs from its default and has no effect beside the others is refused as well. The first seven
    belong to every method, the others to the method "aot", in the order of its steps (docs/method.md).
    """

    # share of the pooled tokens kept; None: 0.1, and beside max_tokens or in variant "paper" no share at all
    retention: float | None = number_in(None, 0, 1, above=True)
    max_tokens: int | None = count_from(None)  # most visual tokens of a video of any length; the smaller bound holds
    method: str = "aot"  # a name of the registry
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the method's own
    # newline tokens of a grid or frame host: one a frame, one a row that kept a token, all of the host's, none
    newlines: str = one_of("frame", "row", "all", "none")
    backend: str = one_of(*BACKENDS)  # of the operations, see `aot.ops`
    # of the vision tower, see `aot.patch_reuse`. None: every frame is encoded; 0: equal frames once; above: patches too
    # keep their features while their pixels, from 0 to 1, differ by less than this (root mean square) from a key
    # frame's
    tower_reuse: float | None = number_in(None, 0, 1)

    # "default": exact budget, one choice and one transport a clip, on the pooled grid
    # "paper": anchors, transport in frames, pooling, transport between frames; counts follow from num_anchors
    variant: str = one_of("default", "paper")

    # clips: runs of frames that tokens may be transported in
    clips: str = one_of("uniform", "dynamic")  # equal lengths, or cut where frames differ
    clip_length: int | None = count_from(None)  # frames; None: 4, fewer above 800 tokens (paper: ceil(T / 8))
    clip_threshold: float = number_in(0.9, -1, 1)  # dynamic: cut where the cosine of adjacent frame means is below it
    clip_cuts: int = count_from(8)  # dynamic: and at the clip_cuts - 1 lowest cosines

    # cost of two tokens: (1 - cos) + spatial_weight · distance + temporal_weight · frames apart
    spatial_weight: float = number_in(0.25, 0, 1e6)  # cost of a frame's side
    temporal_weight: float = number_in(0.2, 0, 1e6, variant="default")  # cost of a frame's time

    # channels of the sketches that are compared; tokens with less than twice as many are compared as they are
    cost_channels: int = count_from(512, variant="default")

    # choice of the kept tokens
    # a clip keeps no more of them than it takes until its tokens cost less than this on average, the retention at most
    distortion: float | None = number_in(None, 0, 1e6, above=True, variant="default")
    global_ratio: float = number_in(1.0, 0, 1)  # share over the whole clip (paper: frame), the rest in 3x3 windows
    attention_power: float = number_in(0.0, 0, 8, variant="default")  # a token weighs attention^this ·
    change_power: float = number_in(0.25, 0, 8, variant="default")  # · change^this
    num_anchors: int | None = count_from(None)  # paper: anchors per frame of the tower grid

    # transport of the others onto them
    epsilon: float = number_in(0.01, 1e-6, 1e6)  # entropic regularisation, in units of the cost
    # default: share of uniform anchor marginals, the rest is the mass that lies nearest; at 0 no iteration is needed
    uniform_marginal: float = number_in(0.0, 0, 1, variant="default")
    # paper: mass of a source: 1, 1 in all, or by attention and 1 on average
    source_mass: str = one_of("unit", "normalised", "attention", variant="paper")
    iterations: int = count_from(100)  # of Sinkhorn-Knopp, at most
    # each problem stops by its own marginal error, all by the release's rule, or none early
    sinkhorn_stop: str = one_of("problem", "batch", "never")
    tolerance: float = number_in(1e-3, 0, 1, above=True)  # relative marginal error ("batch": mean change of scalings)

    # merge: a kept token a becomes (a + λ · carried) / (1 + λ · mass)
    merge_strength: float = number_in(1.0, 0, 1e6)  # λ
    merge_cap: float = number_in(0.5, 0, 1)  # largest share of a kept token that comes from others
    hard_assignment: float = number_in(0.0, 0, 1, variant="paper")  # share of the mean of nearest tokens mixed in

    # transport between frames, variant "paper" alone
    inter_frame: bool = field(default=True, metadata={"variant": "paper"})
    inter_scale: float = number_in(1.0, 0, 1e6, variant="paper")  # λ of this step
    temporal_sigma: float = number_in(1.5, 1e-3, 1e6, variant="paper")  # frames until the cost is full
    dynamic_rule: str = one_of("quantile", "threshold", variant="paper")  # which tokens stay apart:
    keep_ratio: float = number_in(0.3, 0, 1, variant="paper")  # quantile: this share of a frame, the least certain
    dynamic_threshold: float = number_in(0.5, 0, 1, variant="paper")  # threshold: those of a largest share below this
    # updated anchors once, or original and updated ones
    emit_anchors: str = one_of("once", "twice", variant="paper")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            object.__setattr__(self, setting.name, read_setting(setting.name, value, setting))
        if not isinstance(self.inter_frame, bool):
            raise AOTError(f"inter_frame is {self.inter_frame!r}; use True or False.")
        if not isinstance(self.options, Mapping):
            raise AOTError(f"options is {self.options!r}; use a mapping of option names to values.")
        object.__setattr__(self, "options", resolve_options(self.method, self.options))
        paper = self.method == "aot" and self.variant == "paper"
        if self.retention is None and self.max_tokens is None and not paper:
            object.__setattr__(self, "retention", RETENTION)
        self._check_together(paper)
        for name, reason in self._idle_settings():
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise IdleSetting(name, reason)

    def _check_together(self, paper: bool) -> None:
        """Settings that exclude each other. paper: is it the variant of that name?"""
        given = next((name for name in ("retention", "max_tokens") if getattr(self, name) is not None), None)
        if paper and given:
            raise AOTError(
                "The released and paper presets have token counts of their own; "
                f"leave {given} out and set num_anchors, or use the default preset."
            )
        if self.max_tokens is not None and get_method(self.method).in_llm:
            raise AOTError(
                f"All tokens enter the language model under method {self.method!r}, so max_tokens cannot bound them; "
                "set retention, or choose a method that acts before it."
            )
        if paper and self.num_anchors is None:
            raise AOTError("variant 'paper' needs num_anchors, the anchors per frame (126 for 10 %).")
        if not paper and self.num_anchors is not None:
            raise AOTError("num_anchors belongs to variant 'paper'; set retention instead.")
        if self.method == "aot" and not paper and self.sinkhorn_stop == "batch":
            raise AOTError("sinkhorn_stop 'batch' is the released rule of variant 'paper'; use 'problem' or 'never'.")
        if paper and self.sinkhorn_stop == "batch" and self.epsilon * 80 < 2 + 2**0.5 * self.spatial_weight:
            raise AOTError(
                f"sinkhorn_stop 'batch' iterates on exp(-cost / epsilon), which is 0 in float32 for epsilon "
                f"{self.epsilon:g}; raise epsilon, or use 'problem' or 'never'."
            )
        if self.method == "aot" and self.emit_anchors == "twice" and self.newlines not in ("all", "none"):
            raise AOTError("emit_anchors 'twice' leaves frame order; set newlines to 'all' or 'none'.")

    def _idle_settings(self) -> Iterator[tuple[str, str]]:
        """Names of settings that change nothing in this configuration, each with the reason as half a sentence."""
        settings = fields(self)
        if self.method != "aot":
            read = {"retention", "max_tokens", "method", "options", "newlines", "backend", "tower_reuse"}
            read.add("num_anchors")  # has an error of its own
            if not get_method(self.method).in_llm:
                read.add("clip_length")  # a stream of any method is cut in clips
            yield from ((s.name, f"under method {self.method!r}") for s in settings if s.name not in read)
            return
        paper = self.variant == "paper"
        for setting in settings:
            if setting.metadata.get("variant") not in (None, self.variant):
                yield setting.name, f"in variant {self.variant!r}"
        if paper and not self.inter_frame:
            # keep_ratio and inter_scale may stay: the released code takes them where it leaves the step out
            names = ("dynamic_rule", "dynamic_threshold", "temporal_sigma", "clips", "clip_length", "clip_threshold")
            yield from ((name, "where inter_frame is False") for name in (*names, "clip_cuts"))
        if self.clips == "uniform":
            yield from ((name, "where clips is 'uniform'") for name in ("clip_threshold", "clip_cuts"))
        elif paper:
            yield "clip_length", "where clips is 'dynamic' in variant 'paper'"
        if not paper and self.uniform_marginal == 0:
            idle = ("iterations", "sinkhorn_stop", "tolerance")
            yield from ((name, "where uniform_marginal is 0") for name in idle)
        if self.sinkhorn_stop == "never":
            yield "tolerance", "where sinkhorn_stop is 'never'"
        unused = "keep_ratio" if self.dynamic_rule == "threshold" else "dynamic_threshold"
        yield unused, f"where dynamic_rule is {self.dynamic_rule!r}"
        if self.merge_strength == 0 and not (paper and self.inter_frame and self.inter_scale > 0):
            yield "merge_cap", "where merge_strength is 0"
        if self.merge_cap == 0:
            yield "merge_strength", "where merge_cap is 0"
            yield "inter_scale", "where merge_cap is 0"

    @classmethod
    def preset(cls, name: str = "default", **overrides: Any) -> "AOTConfig":
        """A named configuration with changes; AOTError for an unknown name or setting.

        A value of the preset that a change leaves without effect goes back to its default.
        """
        if name not in PRESETS:
            raise AOTError(f"Unknown preset {name!r}; choose one of: {', '.join(PRESETS)}.")
        overrides = current_settings(overrides, stacklevel=4)
        settings = {**PRESETS[name], **overrides}
        while True:
            try:
                return cls.from_dict(settings)
            except IdleSetting as idle:
                if idle.name in overrides or idle.name not in settings:
                    raise
                del settings[idle.name]

    @classmethod
    def from_dict(cls, settings: "AOTConfig | Mapping[str, Any]") -> "AOTConfig":
        """The inverse of `to_dict`, and of an AOTConfig itself; AOTError for keys that are no settings."""
        if isinstance(settings, cls):
            return settings
        if not isinstance(settings, Mapping):
            found = type(settings).__name__
            raise AOTError(f"Settings must be an AOTConfig or a mapping of names to values; got {found}.")
        settings = current_settings(settings, stacklevel=4)
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
        return replace(self, **current_settings(changes, stacklevel=4))

    def budget(self, frames: int, tokens_per_frame: int) -> int:
        """Visual tokens kept of a video: the smaller of max(1, ⌊retention · frames · tokens_per_frame⌋), in decimal
        arithmetic, and max_tokens; all of them where there are no more. With a distortion they are kept at most.
        """
        total = count("frames", frames, 1) * count("tokens_per_frame", tokens_per_frame, 1)
        if self.retention is None and self.max_tokens is None:
            raise AOTError(
                "This preset's counts depend on the video and are unknown before it is seen; "
                "use the default preset with a retention for counts in advance."
            )
        share = total if self.retention is None else max(1, int(EXACT.multiply(Decimal(str(self.retention)), total)))
        return min(share, self.max_tokens or total)

    @property
    def requires(self) -> tuple[str, ...]:
        """Tower outputs that these settings read beside the features, by name (see `aot.registry.Method`)."""
        if self.method == "aot" and self.variant == "default" and self.attention_power == 0:
            return ()
        return get_method(self.method).requires

    @property
    def keeps_all(self) -> bool:
        """Whether every token stays and every frame is encoded, as without settings."""
        bounds = (self.max_tokens, self.distortion, self.tower_reuse)
        return self.retention == 1 and all(bound is None for bound in bounds)

    def bound(self, frames: int, tokens_per_frame: int) -> str:
        """What decides how many tokens are kept of a video: "retention", "max_tokens", or "all" where every one is.

        In variant "paper" it is "num_anchors". Whether a distortion kept fewer is known of the result alone, as its
        `CompressedVideo.bound`.
        """
        if self.num_anchors is not None:
            return "num_anchors"
        if self.budget(frames, tokens_per_frame) == frames * tokens_per_frame:
            return "all"
        return "retention" if self.on_video(frames, tokens_per_frame) is self else "max_tokens"

    def on_video(self, frames: int, tokens_per_frame: int) -> "AOTConfig":
        """Settings for a video of this length: where max_tokens decides, its share of the video is the retention.

        By the retention a method divides a budget among the parts of the video. The budget of the whole is the same.
        """
        if self.max_tokens is None:
            return self
        budget, total = self.budget(frames, tokens_per_frame), frames * tokens_per_frame
        if self.retention is not None and budget == self.replace(max_tokens=None).budget(frames, tokens_per_frame):
            return self
        share = budget / total
        if EXACT.multiply(Decimal(str(share)), total) < budget:  # the least float whose budget this is
            share = math.nextafter(share, 1)
        return self.replace(retention=share)

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
        Raises AOTError where the count depends on the video: variant "paper", a distortion, newlines "row". Of a method
        that acts inside the language model, which all tokens enter, the visual count is T·P.
        """
        if self.distortion is not None:
            raise AOTError("With a distortion the count depends on the video; leave it out for counts in advance.")
        visual = self.budget(frames, tokens_per_frame)
        if get_method(self.method).in_llm:
            visual = frames * tokens_per_frame
        return visual, self.newline_count(frames, tokens_per_frame, newline_position=newline_position, rows=rows)

    def newline_count(
        self, frames: int, tokens_per_frame: int, *, newline_position: str = "grid", rows: int | None = None
    ) -> int:
        """Newline tokens of a compressed video; arguments and errors as in `token_count`."""
        check_newline_position(newline_position)
        frames, tokens_per_frame = count("frames", frames, 1), count("tokens_per_frame", tokens_per_frame, 1)
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
        return frames * count("rows", rows, 1)


_PAPER = {
    "retention": None,
    "variant": "paper",
    "num_anchors": 126,
    "global_ratio": 0.5,
    "spatial_weight": 0.0,
    "epsilon": 0.1,
    "source_mass": "normalised",
    "sinkhorn_stop": "never",
    "iterations": 100,
    "merge_cap": 1.0,
    "hard_assignment": 0.0,
    "dynamic_rule": "threshold",
    "emit_anchors": "once",
}
# where the released code goes other ways than the paper
_RELEASED = {
    "newlines": "all",
    "spatial_weight": 0.5,
    "sinkhorn_stop": "batch",
    "tolerance": 1e-2,
    "hard_assignment": 0.1,
    "dynamic_rule": "quantile",
    "emit_anchors": "twice",
}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": _PAPER, "released": _PAPER | _RELEASED}
