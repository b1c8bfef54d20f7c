"""Colours, marks and words that all pictures share; colours of Okabe and Ito, marks for those who see none."""

from dataclasses import dataclass, replace

from ..types import TokenKind
from .scene import Scene


@dataclass(frozen=True)
class Look:
    """How a kept token of one kind is shown. mark: a matplotlib marker."""

    color: str
    mark: str
    text: str


LOOKS = {
    TokenKind.LOCAL: Look("#D55E00", "o", "kept: stands best for its part of the picture (local anchor)"),
    TokenKind.GLOBAL: Look("#0072B2", "s", "kept: stands best for what is left (global anchor)"),
    TokenKind.DYNAMIC: Look("#000000", "^", "kept: unlike the clip's first frame (dynamic)"),
}
PLAIN = Look("#0072B2", "s", "kept")
WHY = {
    "global_score": (
        "Tokens are kept that stand for as many others as possible; a token counts more where something changed since "
        "the frame before."
    ),
    "score": "A token is kept where the method's own score is high.",
    "deep": "A token is kept where the vision model looks most.",
    "change": "A token is kept where something changed since the frame before.",
}
EARLIER, LATER = "#56B4E9", "#E69F00"
HEAT = "cividis"
INK, FAINT, UNMIXED = "#222222", "#8A8A8A", "#9A9A9A"
CLIP_TINTS = ("#E9EEF3", "#FFFFFF")


def look(scene: Scene, kind: TokenKind) -> Look:
    """The look of a kind; the words are those of the anchors for the method "aot" alone."""
    if scene.anchors:
        return LOOKS[kind]
    if len(scene.kinds) == 1:
        return PLAIN
    return replace(LOOKS[kind], text=f"kept (the method's kind {kind.name.lower()})")


def headline(scene: Scene) -> str:
    """What happened, in one line."""
    share = 100 * scene.after / scene.before
    return f"{scene.after} of {scene.before} visual tokens kept ({share:.3g} %), method {scene.method}"


def caption(scene: Scene, t: int) -> str:
    """Time, clip and budget of a frame in words."""
    parts = [f"{scene.counts[t, kind]} {kind.name.lower()}" for kind in scene.kinds if scene.counts[t, kind]]
    clip = scene.clip_of(t)
    place = f"frame {t + 1}, {scene.times[t]:.2f} s" + ("" if clip is None else f", clip {clip + 1}")
    what = f" ({', '.join(parts)})" if len(scene.kinds) > 1 and parts else ""
    mass = f", standing for {scene.mass[t].sum():.0f} tokens of the video" if scene.target is not None else ""
    return f"{place}: {scene.counts[t].sum()} of {scene.grid[0] * scene.grid[1]} tokens kept{what}{mass}"


def reasons(scene: Scene) -> str:
    """Why these tokens and what became of the others, for people who do not know the method."""
    height, width = scene.grid
    cut = f"The model sees each frame as {height}×{width} tokens, one per cell."
    if scene.after == scene.before:
        inside = scene.settings["retention"] not in (None, 1.0)
        return f"{cut} All of them {'enter the language model, which drops some inside' if inside else 'are kept'}."
    why = WHY.get(next(iter(scene.maps), None), f"Method {scene.method!r} leaves no map of why it keeps a token.")
    if scene.target is not None:
        rest = "The faded ones are merged into kept ones."
    elif scene.mass.sum() > scene.after + 0.5:
        rest = "Faded ones are merged into kept ones; the method leaves no trace of which into which."
    else:
        rest = "The faded ones are dropped."
    return f"{cut} {why} {rest}"
