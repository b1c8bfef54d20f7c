"""Questions about procedural clips, their answers, and how an answer is scored.

Families follow what VideoMME, MLVU and MVBench ask. Every question can be put openly (a word or two) or as
multiple choice in the wording of those benchmarks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from aot_tiny.shapes.clips import COLORS, DURATION, MOTIONS, NEEDLE, SHAPES, TIMES, Clip, Thing

FAMILIES = ("attribute", "motion", "counting", "order", "position", "state", "needle", "when")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = tuple(m for m in MOTIONS if m != "still") + ("not at all",)
NUMBERS = tuple(str(n) for n in range(1, 8))
CHANGES = ("it appears", "it disappears", "it changes color", "it stays")
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")

# every answer that a family's questions can have
ANSWERS = {
    "attribute": (*SHAPES, *COLORS), "motion": DIRECTIONS, "counting": NUMBERS, "order": tuple(COLORS),
    "position": CORNERS, "state": (*COLORS, *CHANGES), "needle": (*COLORS, *CORNERS), "when": QUARTERS,
}  # fmt: skip

OPEN_PROMPT = "{question}\nAnswer the question using a single word or phrase."
CAPTION_PROMPTS = ("Describe the video.", "Write subtitles for the video.")
# {options} is one option a line; the wording is what lmms-eval sends for each benchmark
CHOICE_PROMPTS = {
    "videomme": (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "{question}\n{options}\nThe best answer is:"
    ),
    "egoschema": "{question}\n{options}\nAnswer with the option's letter from the given choices directly.",
    "mlvu": "{question}\n{options}\nOnly give the best option.\nBest option: (",
}
OPTION_STYLE = {"videomme": "{}. {}", "egoschema": "{}. {}", "mlvu": "({}) {}"}
LETTERS = "ABCD"


@dataclass(frozen=True)
class Evidence:
    """Where an answer can be seen: in these frames, and there at a thing, by its number in `Clip.all_things`."""

    frames: tuple[int, ...]
    thing: int | None = None


@dataclass(frozen=True)
class Question:
    """One question: `answer` is one of `choices`, the closed set its kind of answer comes from.

    named: the words of the text that say what is meant. evidence: where in the video the answer can be seen.
    """

    family: str
    text: str
    answer: str
    choices: tuple[str, ...] = field(repr=False)
    named: str = field(default="", repr=False)
    evidence: Evidence | None = field(default=None, repr=False)

    def open_prompt(self) -> str:
        return OPEN_PROMPT.format(question=self.text)

    def options(self, rng: np.random.Generator, letter: str) -> tuple[str, ...]:
        """Four different options with the answer at `letter`."""
        wrong = [c for c in self.choices if c != self.answer]
        options = [str(w) for w in rng.choice(wrong, 3, replace=False)]
        options.insert(LETTERS.index(letter), self.answer)
        return tuple(options)

    def choice_prompt(self, options: tuple[str, ...], style: str = "videomme") -> str:
        lines = "\n".join(OPTION_STYLE[style].format(c, o) for c, o in zip(LETTERS, options, strict=True))
        return CHOICE_PROMPTS[style].format(question=self.text, options=lines)


def name(thing: Thing) -> str:
    """How questions refer to a thing: by the colour it starts with."""
    return f"{thing.color} {thing.shape}"


def corner(x: float, y: float) -> str | None:
    """The corner a point lies in; None near a middle line."""
    if min(abs(x - 0.5), abs(y - 0.5)) < 0.06:
        return None
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def quarter(t: float) -> str | None:
    """The quarter of the clip an event falls in; None when the first frame after it lies in the next one."""
    first, second = (int(4 * s / DURATION) for s in (t, TIMES[shown(t)]))
    return QUARTERS[first] if first == second else None


def make_questions(clip: Clip) -> list[Question]:
    """Every question whose answer the clip settles."""
    return [
        *_attribute(clip), *_motion(clip), *_counting(clip), *_order(clip),
        *_position(clip), *_state(clip), *_needle(clip), *_when(clip),
    ]  # fmt: skip


def shown(t: float) -> int:
    """The first frame that a model sees at or after an instant."""
    return min(int(np.searchsorted(TIMES, t)), len(TIMES) - 1)


def _visible(thing: Thing, since: float = 0.0) -> tuple[int, ...]:
    """The frames in which a thing is in sight, from an instant on."""
    return tuple(i for i, t in enumerate(TIMES) if thing.visible(t) and t >= since)


def _attribute(clip: Clip) -> list[Question]:
    out, shapes = [], [t.shape for t in clip.things]
    for k, t in enumerate(clip.things):
        seen = Evidence(_visible(t), k)
        if t.change is None and not (clip.needle and clip.needle.color == t.color):
            text = f"What shape is the {t.color} object?"
            out.append(Question("attribute", text, t.shape, SHAPES, f"{t.color} object", seen))
        if t.change is None and shapes.count(t.shape) == 1:
            text = f"What color is the {t.shape}?"
            out.append(Question("attribute", text, t.color, tuple(COLORS), t.shape, seen))
    return out


def _motion(clip: Clip) -> list[Question]:
    out = []
    for k, t in enumerate(clip.things):
        answer = "not at all" if t.motion == "still" else t.motion
        text, seen = f"In which direction does the {name(t)} move?", Evidence(_visible(t)[2:], k)
        out.append(Question("motion", text, answer, DIRECTIONS, name(t), seen))
    return out


def _counting(clip: Clip) -> list[Question]:
    everything, last = clip.all_things, len(TIMES) - 1
    counts = [
        ("How many objects appear in the video in total?", "total", len(everything), last),
        ("How many objects are visible at the start of the video?", "start", _in_sight(everything, 0), 0),
        ("How many objects are visible at the end of the video?", "end", _in_sight(everything, last), last),
    ]
    for shape in sorted({t.shape for t in clip.things}):
        plural = f"{shape}s".replace("crosss", "crosses")
        number = sum(t.shape == shape for t in clip.things)
        counts.append((f"How many {plural} appear in the video?", plural, number, last))
    return [
        Question("counting", text, str(n), NUMBERS, named, Evidence((frame,)))
        for text, named, n, frame in counts
        if n > 0
    ]


def _in_sight(things: tuple[Thing, ...], frame: int) -> int:
    return sum(t.visible(TIMES[frame]) for t in things)


def _order(clip: Clip) -> list[Question]:
    everything, colors, end = clip.all_things, tuple(COLORS), Evidence((len(TIMES) - 1,))
    came = sorted((t.on, t.color) for t in everything if t.on > 0)
    went = sorted((t.off, t.color_at(t.off - 0.1)) for t in everything if t.off < DURATION)
    asked = [
        ("What color is the first new object to appear?", "first new object", came),
        ("What color is the object that appears last?", "appears last", came[::-1]),
        ("What color is the object that disappears first?", "disappears first", went),
    ]
    return [
        Question("order", text, events[0][1], colors, named, end)
        for text, named, events in asked
        if events and (len(events) == 1 or abs(events[0][0] - events[1][0]) > 1)  # no ties
    ]


def _position(clip: Clip) -> list[Question]:
    out = []
    for k, t in enumerate(clip.things):
        begin, last = shown(t.on), len(TIMES) - 1
        if where := corner(*t.center(TIMES[begin])):
            when = "when it appears" if t.on > 0 else "at the start of the video"
            text = f"Where is the {name(t)} {when}?"
            out.append(Question("position", text, where, CORNERS, name(t), Evidence((begin,), k)))
        if t.off == DURATION and (where := corner(*t.center(TIMES[-1]))):
            text = f"Where is the {name(t)} at the end of the video?"
            out.append(Question("position", text, where, CORNERS, name(t), Evidence((last,), k)))
    return out


def _state(clip: Clip) -> list[Question]:
    out = []
    for k, t in enumerate(clip.things):
        if t.change is not None:
            text, seen = f"What color does the {name(t)} become?", Evidence(_visible(t, t.change), k)
            out.append(Question("state", text, t.color_after, tuple(COLORS), name(t), seen))
        times = {"it appears": t.on, "it disappears": t.off, "it changes color": t.change or DURATION}
        happened = [what for what in CHANGES if 0 < times.get(what, 0) < DURATION]
        if len(happened) < 2:
            answer = happened[0] if happened else "it stays"
            seen = Evidence((shown(times[answer]),)) if happened else Evidence(_visible(t), k)
            out.append(Question("state", f"What happens to the {name(t)}?", answer, CHANGES, name(t), seen))
    return out


def _needle(clip: Clip) -> list[Question]:
    if not clip.needle:
        return []
    star, seen = clip.needle, Evidence(_visible(clip.needle), len(clip.things))
    return [
        Question("needle", "What color is the star that flashes?", star.color, tuple(COLORS), NEEDLE, seen),
        Question("needle", "Where does the star flash?", corner(*star.start), CORNERS, NEEDLE, seen),
    ]


def _when(clip: Clip) -> list[Question]:
    events = [("does the scene change", "scene", t) for t in clip.cuts[1:]]
    if clip.needle:
        events.append(("does the star flash", NEEDLE, clip.needle.on))
    for t in clip.things:
        if t.on > 0:
            events.append((f"does the {name(t)} appear", name(t), t.on))
        if t.off < DURATION:
            events.append((f"does the {name(t)} disappear", name(t), t.off))
        if t.change is not None:
            events.append((f"does the {name(t)} change color", name(t), t.change))
    return [
        Question("when", f"When {text}?", part, QUARTERS, named, Evidence((shown(t),)))
        for text, named, t in events
        if (part := quarter(t))
    ]


def caption(clip: Clip) -> str:
    """The clip told in order of time, a sentence a thing."""
    things = sorted(clip.things, key=lambda t: (t.on, t.start[0]))
    told = [(t.on, f"A {name(t)} {_told(t)}.") for t in things]
    if clip.needle:
        star = clip.needle
        told.append((star.on, f"A {star.color} star flashes in the {corner(*star.start)}."))
    told += [(t - 0.01, "The scene changes.") for t in clip.cuts[1:]]
    return " ".join(text for _, text in sorted(told, key=lambda pair: pair[0]))


def _told(t: Thing) -> str:
    acts = ["appears"] if t.on > 0 else []
    acts.append("stays still" if t.motion == "still" else f"moves {t.motion}")
    acts += [f"turns {t.color_after}"] if t.change is not None else []
    acts += ["disappears"] if t.off < DURATION else []
    return acts[0] if len(acts) == 1 else ", ".join(acts[:-1]) + " and " + acts[-1]


def facts(text: str) -> set[str]:
    """What a caption states: each thing it names, and each thing with each of its acts."""
    out = set()
    for sentence in re.split(r"\.\s*", text.strip().lower()):
        words = sentence.split()
        if sentence == "the scene changes":
            out.add(sentence)
        elif len(words) > 3 and words[0] == "a":
            subject = " ".join(words[1:3])
            out.add(subject)
            out |= {f"{subject}: {act}" for act in re.split(r", | and ", " ".join(words[3:]))}
    return out


def caption_f1(said: str, truth: str) -> float:
    """Harmonic mean of the precision and recall of the facts stated, in 0..1."""
    a, b = facts(said), facts(truth)
    return 2 * len(a & b) / max(len(a) + len(b), 1)


def open_correct(said: str, answer: str) -> bool:
    """Whether the words are the answer, letter case, articles and final full stop aside."""
    words = re.sub(r"^(the|a|an|in the) ", "", said.strip().lower()).rstrip(".")
    return words == answer


def choice_correct(said: str, letter: str) -> bool:
    """Whether the first option letter in the reply is the right one."""
    found = re.search(r"\b([A-D])\b", said.strip())
    return bool(found) and found.group(1) == letter
