"""FastV and PDrop drop visual tokens inside the language model: their settings and the arithmetic of their counts.

FastV (Chen et al., ECCV 2024, arXiv 2403.06764): after `layer` layers only the visual tokens to which the prompt's
last token attends most, in the layer just run, go on. PDrop (Xing et al., CVPR 2025, arXiv 2410.17247): the same at
several depths, each time the same share of what is left, ranked by the attention of the layer that comes next.

All tokens enter the model, so neither has a token count to compare with methods that act before it. What is compared is
the layer average: the share of visual tokens that a layer sees, averaged over layers. Option `counts` says what
`retention` means: "average" (default) that share, which is met from below by whole tokens, or "last" the share after
the last drop, as in the published settings: FastV R = 50 % is retention 0.5, PDrop 50/25/12.5 % is retention 0.125.

Deviations: kept tokens keep their positions, as FastV's do; PDrop's code numbers them anew. Newline tokens stay.
Tokens are dropped in the first pass over the prompt only, and images never. Nothing is dropped here: the host model
asks for `prune_stages` and does it.
"""

from dataclasses import dataclass
from decimal import Decimal

from ..config import AOTConfig
from ..errors import AOTError
from ..registry import get_method, register
from ..types import Selection, VideoTokens
from ..validation import EXACT, count, count_from, one_of

IN_LLM = ("fastv", "pdrop")
COUNTS = one_of("average", "last")


@dataclass(frozen=True)
class Stage:
    """One drop: layers `layer` and up (0-based) see `keep` visual tokens, ranked by the attention of layer `look`."""

    layer: int
    look: int
    keep: int


def is_in_llm(config: AOTConfig | None) -> bool:
    """Whether the method acts inside the language model."""
    return config is not None and get_method(config.method).in_llm


def prune_stages(config: AOTConfig, visual: int, layers: int) -> tuple[Stage, ...]:
    """The drops for a prompt of `visual` visual tokens in a model of `layers` layers, by depth.

    AOTError where the layers before the first drop alone exceed the asked average, or a depth is none of the model's.
    """
    if config.method == "fastv":
        depths, behind = [config.options["layer"]], 1
    else:
        depths, behind = config.options["layers"] or quarters(layers), 0
    if not depths or depths[-1] >= layers:
        raise AOTError(f"The language model has {layers} layers; {config.method!r} needs to drop before the last.")
    keeps = _keeps(config, visual, layers, depths)
    return tuple(Stage(depth, depth - behind, keep) for depth, keep in zip(depths, keeps, strict=True))


def seen_by_layer(stages: tuple[Stage, ...], visual: int, layers: int) -> list[int]:
    """Visual tokens that each layer sees."""
    seen = [visual] * layers
    for stage in stages:
        seen[stage.layer :] = [stage.keep] * (layers - stage.layer)
    return seen


def quarters(layers: int) -> list[int]:
    """Depths at a quarter, half and three quarters of the model: 8, 16, 24 of 32; of few layers those that differ."""
    return sorted({layers * part // 4 for part in (1, 2, 3)} - {0})


def _keeps(config: AOTConfig, visual: int, layers: int, depths: list[int]) -> list[int]:
    """Tokens kept at each depth, at least 1."""
    share = Decimal(str(config.retention))
    if config.options["counts"] == "last":
        last = max(1, int(EXACT.multiply(share, visual)))
        ratio = float(share) ** (1 / len(depths))
        return [max(last, _whole(visual * ratio**step)) for step in range(1, len(depths))] + [last]
    total = int(EXACT.multiply(share, visual * layers))
    least = depths[0] * visual + layers - depths[0]
    if total < least:
        raise AOTError(
            f"Method {config.method!r} keeps all tokens in {depths[0]} of {layers} layers, a layer average of at least "
            f"{100 * least / (visual * layers):.3g} % here; raise retention, drop earlier by option "
            f"{'layer' if config.method == 'fastv' else 'layers'}, or set counts='last' to name the share after the "
            "last drop."
        )
    if len(depths) == 1:
        return [(total - depths[0] * visual) // (layers - depths[0])]
    spans = [end - start for start, end in zip([0, *depths], [*depths, layers], strict=True)]
    ratio = _ratio(spans, float(share) * layers)
    keeps = [max(1, _whole(visual * ratio**step)) for step in range(1, len(spans))]
    # the least of one token may exceed the total: taken back from the last of the largest
    while sum(keep * span for keep, span in zip(keeps, spans[1:], strict=True)) > total - visual * depths[0]:
        keeps[len(keeps) - 1 - keeps[::-1].index(max(keeps))] -= 1
    return keeps


def _ratio(spans: list[int], wanted: float) -> float:
    """The q in [0, 1] with Σ spans_i · q^i = wanted, by bisection; wanted lies between spans_0 and Σ spans_i."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(span * middle**step for step, span in enumerate(spans)) <= wanted:
            low = middle
        else:
            high = middle
    return low


def _whole(tokens: float) -> int:
    """⌊tokens⌋, where a value a rounding error below a whole number counts as that number."""
    return int(tokens + 1e-6)


def _check_layers(options: dict) -> None:
    depths = options["layers"]
    if depths is None:
        return
    if not isinstance(depths, list | tuple) or not depths:
        raise AOTError(f"option layers is {depths!r}; use a list of depths such as [8, 16, 24], or None for quarters.")
    depths = [count("option layers", depth, 1) for depth in depths]
    if depths != sorted(set(depths)):
        raise AOTError(f"option layers is {depths!r}; give depths in ascending order, each once.")
    options["layers"] = depths  # plain numbers, as they are written beside a result


@register("fastv", options={"layer": count_from(2), "counts": COUNTS}, in_llm=True)
@register("pdrop", options={"layers": None, "counts": COUNTS}, check=_check_layers, in_llm=True)
def before_the_model(video: VideoTokens, config: AOTConfig) -> Selection:
    """Acts inside the language model; AOTError when asked for tokens before it."""
    raise AOTError(
        f"Method {config.method!r} drops tokens inside the language model; set it as model.config.aot of a llava model."
    )
