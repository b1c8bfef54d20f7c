"""Questions about drawn clips, their answers, and how a reply is scored; of shapes' clips a part of the families.

Families follow what VideoMME, MLVU, MVBench, Charades-STA (grounding), POPE (presence) and OCR benchmarks (reading)
ask.
Every question can be put openly (a word or two) or as multiple choice in the wording of those benchmarks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from aot_tiny.drawing import COLORS, DIRECTIONS, NEEDLE, SHAPES
from aot_tiny.film.clips import Clip, Thing

CORNERS = ("top left", "top right", "bottom left", "bottom right")
MOTIONS = (*DIRECTIONS, "not at all")
NUMBERS = tuple(str(n) for n in range(1, 9))
CHANGES = ("it appears", "it disappears", "it changes color", "it stays")
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
YES_NO = ("yes", "no")

# every answer that a family's questions can have; None: an open set, of which each question brings four
ANSWERS: dict[str, tuple[str, ...] | None] = {
    "attribute": (*SHAPES, *COLORS), "motion": MOTIONS, "counting": NUMBERS, "order": tuple(COLORS),
    "position": CORNERS, "state": (*COLORS, *CHANGES), "needle": (*COLORS, *CORNERS), "when": QUARTERS,
    "grounding": None, "presence": YES_NO, "reading": None,
}  # fmt: skip
FAMILIES = tuple(ANSWERS)

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
    """Where an answer can be seen: in these frames, and there at a thing, by its number in `Clip.drawn`."""

    frames: tuple[int, ...]
    thing: int | None = None


@dataclass(frozen=True)
class Question:
    """One question: `answer` is one of `choices`, from which the options of a multiple choice are drawn.

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

    def letters(self) -> str:
        """The letters that its options have: four, or two where there are only two answers."""
        return LETTERS[: min(4, len(self.choices))]

    def options(self, rng: np.random.Generator, letter: str) -> tuple[str, ...]:
        """Different options with the answer at `letter`."""
        wrong = [c for c in self.choices if c != self.answer]
        options = [str(w) for w in rng.choice(wrong, len(self.letters()) - 1, replace=False)]
        options.insert(LETTERS.index(letter), self.answer)
        return tuple(options)

    def choice_prompt(self, options: tuple[str, ...], style: str = "videomme") -> str:
        lines = "\n".join(OPTION_STYLE[style].format(c, o) for c, o in zip(LETTERS, options, strict=False))
        return CHOICE_PROMPTS[style].format(question=self.text, options=lines)


def name(thing: Thing) -> str:
    """How questions refer to a thing: by the colour it starts with."""
    return "sign" if thing.code else f"{thing.color} {thing.shape}"


def corner(x: float, y: float) -> str | None:
    """The corner of the screen a point lies in; None near a middle line."""
    if min(abs(x - 0.5), abs(y - 0.5)) < 0.06:
        return None
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def direction(path: np.ndarray) -> str | None:
    """How a path (2, n) on the screen goes; None where it is neither one direction nor rest."""
    way, reach = path[:, -1] - path[:, 0], np.abs(path - path[:, :1]).max()
    if reach < 0.05:
        return "not at all"
    along = int(np.abs(way).argmax())
    if abs(way[along]) < 0.2 or abs(way[1 - along]) > 0.35 * abs(way[along]):
        return None
    return next(d for d, step in DIRECTIONS.items() if step[along] == np.sign(way[along]))


def motion(clip: Clip, thing: Thing) -> str | None:
    """How a thing moves on the screen while it is seen; see `direction`."""
    times = clip.times[(thing.on <= clip.times) & (thing.off > clip.times)]
    return direction(clip.path(thing, times)[0])


def shown(clip: Clip, t: float) -> int:
    """The first frame that a model sees at or after an instant."""
    return min(int(np.searchsorted(clip.times, t)), clip.frames - 1)


def visible_frames(clip: Clip, thing: Thing, since: float = 0.0) -> tuple[int, ...]:
    """The frames in which a thing is in sight, from an instant on."""
    return tuple(i for i, t in enumerate(clip.times) if thing.visible(t) and t >= since)


def make_questions(clip: Clip, families: Iterable[str] = FAMILIES) -> list[Question]:
    """Every question of these families whose answer the clip settles."""
    makers = {
        "attribute": _attribute, "motion": _motion, "counting": _counting, "order": _order, "position": _position,
        "state": _state, "needle": _needle, "when": _when, "grounding": _grounding, "presence": _presence,
        "reading": _reading,
    }  # fmt: skip
    return [question for family in families for question in makers[family](clip)]


def _attribute(clip: Clip) -> list[Question]:
    out, shapes = [], [t.shape for t in clip.things]
    for k, t in enumerate(clip.things):
        seen = Evidence(visible_frames(clip, t), k)
        if t.change is None and not (clip.needle and clip.needle.color == t.color):
            text = f"What shape is the {t.color} object?"
            out.append(Question("attribute", text, t.shape, SHAPES, f"{t.color} object", seen))
        if t.change is None and shapes.count(t.shape) == 1:
            out.append(Question("attribute", f"What color is the {t.shape}?", t.color, tuple(COLORS), t.shape, seen))
    return out


def _motion(clip: Clip) -> list[Question]:
    out = []
    for k, t in enumerate(clip.things):
        if answer := motion(clip, t):
            text, seen = f"In which direction does the {name(t)} move?", Evidence(visible_frames(clip, t)[2:], k)
            out.append(Question("motion", text, answer, MOTIONS, name(t), seen))
    return out


def _counting(clip: Clip) -> list[Question]:
    everything, last = clip.all_things, clip.frames - 1
    counts = [
        ("How many objects appear in the video in total?", "total", len(everything), last),
        ("How many objects are visible at the start of the video?", "start", _in_sight(clip, 0), 0),
        ("How many objects are visible at the end of the video?", "end", _in_sight(clip, last), last),
    ]
    for shape in sorted({t.shape for t in clip.things}):
        plural = f"{shape}s".replace("crosss", "crosses")
        number = sum(t.shape == shape for t in clip.things)
        counts.append((f"How many {plural} appear in the video?", plural, number, last))
    return [
        Question("counting", text, str(n), NUMBERS[: clip.most_objects], named, Evidence((frame,)))
        for text, named, n, frame in counts
        if n > 0
    ]


def _in_sight(clip: Clip, frame: int) -> int:
    return sum(t.visible(clip.times[frame]) for t in clip.all_things)


def _order(clip: Clip) -> list[Question]:
    everything, colors, end = clip.all_things, tuple(COLORS), Evidence((clip.frames - 1,))
    came = sorted((t.on, t.color) for t in everything if t.on > 0)
    went = sorted((t.off, t.color_at(t.off - 0.1)) for t in everything if t.off < clip.frames)
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
        begin, last = shown(clip, t.on), clip.frames - 1
        if where := corner(*clip.center(t, clip.times[begin])):
            when = "when it appears" if t.on > 0 else "at the start of the video"
            text = f"Where is the {name(t)} {when}?"
            out.append(Question("position", text, where, CORNERS, name(t), Evidence((begin,), k)))
        if t.off == clip.frames and (where := corner(*clip.center(t, clip.times[-1]))):
            text = f"Where is the {name(t)} at the end of the video?"
            out.append(Question("position", text, where, CORNERS, name(t), Evidence((last,), k)))
    return out


def _state(clip: Clip) -> list[Question]:
    out, end = [], clip.frames
    for k, t in enumerate(clip.things):
        if t.change is not None:
            text, seen = f"What color does the {name(t)} become?", Evidence(visible_frames(clip, t, t.change), k)
            out.append(Question("state", text, t.color_after, tuple(COLORS), name(t), seen))
        times = {"it appears": t.on, "it disappears": t.off, "it changes color": t.change or end}
        happened = [what for what in CHANGES if 0 < times.get(what, 0) < end]
        if len(happened) < 2:
            answer = happened[0] if happened else "it stays"
            seen = Evidence((shown(clip, times[answer]),)) if happened else Evidence(visible_frames(clip, t), k)
            out.append(Question("state", f"What happens to the {name(t)}?", answer, CHANGES, name(t), seen))
    return out


def _needle(clip: Clip) -> list[Question]:
    if not clip.needle:
        return []
    star, seen = clip.needle, Evidence(visible_frames(clip, clip.needle), len(clip.things))
    out = [Question("needle", "What color is the star that flashes?", star.color, tuple(COLORS), NEEDLE, seen)]
    if where := corner(*clip.center(star, clip.times[seen.frames[0]])):
        out.append(Question("needle", "Where does the star flash?", where, CORNERS, NEEDLE, seen))
    return out


def quarter(clip: Clip, t: float) -> str | None:
    """The quarter of the clip an event falls in; None when the first frame after it lies in the next one."""
    first, second = (int(4 * s / clip.frames) for s in (t, clip.times[shown(clip, t)]))
    return QUARTERS[first] if first == second else None


def _when(clip: Clip) -> list[Question]:
    events = [("does the scene change", "scene", t) for t in clip.cuts[1:]]
    if clip.needle:
        events.append(("does the star flash", NEEDLE, clip.needle.on))
    for t in clip.things:
        if t.on > 0:
            events.append((f"does the {name(t)} appear", name(t), t.on))
        if t.off < clip.frames:
            events.append((f"does the {name(t)} disappear", name(t), t.off))
        if t.change is not None:
            events.append((f"does the {name(t)} change color", name(t), t.change))
    return [
        Question("when", f"When {text}?", part, QUARTERS, named, Evidence((shown(clip, t),)))
        for text, named, t in events
        if (part := quarter(clip, t))
    ]


def _grounding(clip: Clip) -> list[Question]:
    """From which second to which a thing is seen, where that is not all of the clip."""
    out = []
    for k, t in enumerate(clip.drawn):
        frames = visible_frames(clip, t)
        if t.shape == NEEDLE or len(frames) == clip.frames:
            continue
        answer = interval_text(frames[0], frames[-1])
        text, named = f"From which second to which is the {name(t)} visible?", name(t)
        wrong = _other_intervals(frames[0], frames[-1], clip.frames)
        if len(wrong) >= 3:
            out.append(Question("grounding", text, answer, (answer, *wrong), named, Evidence(frames, k)))
    return out


def interval_text(first: int, last: int) -> str:
    return f"{first} to {last}"


def _other_intervals(first: int, last: int, frames: int) -> list[str]:
    """Intervals that a careless watcher might give, each overlapping the right one by less than 0.4."""
    length, out = last - first + 1, []
    proposals = [(0, first - 1), (last + 1, frames - 1), (0, length - 1), (frames - length, frames - 1)]
    proposals += [(first + s * length, last + s * length) for s in (-2, -1, 1, 2)]
    proposals += [(first, first + length // 4), (last - length // 4, last)]
    proposals += [(first - length, first), (last, last + length)]
    for a, b in proposals:
        a, b = max(a, 0), min(b, frames - 1)
        text = interval_text(a, b)
        if a <= b and overlap((a, b), (first, last)) < 0.4 and text not in out:
            out.append(text)
    return out


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Intersection over union of two intervals of whole seconds, ends included."""
    inside = min(a[1], b[1]) - max(a[0], b[0]) + 1
    return max(inside, 0) / (max(a[1], b[1]) - min(a[0], b[0]) + 1)


def _presence(clip: Clip) -> list[Question]:
    """Whether a thing is in the video: those there, and as many that share a colour or a shape with one there."""
    named = [(t.color, t.shape) for t in clip.things]
    said = {color for t in clip.all_things for color in (t.color, t.color_after)} | {None}
    rng = np.random.default_rng([clip.seed, 7])
    out = []
    for k, t in enumerate(clip.things):
        text = f"Is there a {name(t)} in the video?"
        out.append(Question("presence", text, "yes", YES_NO, name(t), Evidence(visible_frames(clip, t), k)))
        if rng.random() < 0.5:  # the right colour, another shape
            color, shape = t.color, str(rng.choice([s for s in SHAPES if (t.color, s) not in named]))
        else:
            others = [c for c in COLORS if c not in said]
            if not others:
                continue
            color, shape = str(rng.choice(others)), t.shape
        text = f"Is there a {color} {shape} in the video?"
        out.append(Question("presence", text, "no", YES_NO, f"{color} {shape}", Evidence((clip.frames - 1,))))
    return out


def _reading(clip: Clip) -> list[Question]:
    if not clip.sign:
        return []
    code, place = clip.sign.code, len(clip.all_things)
    a, b = (int(d) for d in code)
    near = [f"{x}{y}" for x, y in ((b, a), (a, (b + 3) % 10), ((a + 4) % 10, b), ((a + 7) % 10, (b + 5) % 10))]
    choices = tuple(dict.fromkeys([code, *near]))
    seen = Evidence(visible_frames(clip, clip.sign), place)
    return [Question("reading", "What number is on the sign?", code, choices, "sign", seen)]


def caption(clip: Clip) -> str:
    """The clip told in order of time, a sentence a thing."""
    told = []
    for t in sorted(clip.things, key=lambda t: (t.on, t.start[0])):
        acts, moves = ["appears"] if t.on > 0 else [], motion(clip, t)
        acts += ["stays still"] if moves == "not at all" else [f"moves {moves}"] if moves else ["moves"]
        acts += [f"turns {t.color_after}"] if t.change is not None else []
        acts += ["disappears"] if t.off < clip.frames else []
        words = acts[0] if len(acts) == 1 else ", ".join(acts[:-1]) + " and " + acts[-1]
        told.append((t.on, f"A {name(t)} {words}."))
    if clip.needle:
        where = corner(*clip.center(clip.needle, clip.times[shown(clip, clip.needle.on)]))
        told.append((clip.needle.on, f"A {clip.needle.color} star flashes{f' in the {where}' if where else ''}."))
    if clip.sign:
        told.append((clip.sign.on, f"A sign says {clip.sign.code}."))
    told += [(t - 0.01, "The scene changes.") for t in clip.cuts[1:]]
    return " ".join(text for _, text in sorted(told, key=lambda pair: pair[0]))


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


def interval_iou(said: str, answer: str) -> float:
    """Overlap of a stated interval with the right one, 0 where none is stated."""
    spans = [[int(n) for n in re.findall(r"\d+", text)] for text in (said, answer)]
    if len(spans[0]) != 2 or spans[0][0] > spans[0][1]:
        return 0.0
    return overlap(tuple(spans[0]), tuple(spans[1]))


def open_correct(said: str, question: Question) -> bool:
    """Whether the words are the answer; intervals by an IoU of 0.5."""
    if question.family == "grounding":
        return interval_iou(said, question.answer) >= 0.5
    return same_words(said, question.answer)


def same_words(said: str, answer: str) -> bool:
    """Whether the words are the answer, letter case, articles and final full stop aside."""
    return re.sub(r"^(the|a|an|in the) ", "", said.strip().lower()).rstrip(".") == answer


def choice_correct(said: str, letter: str) -> bool:
    """Whether the first option letter in the reply is the right one."""
    found = re.search(r"\b([A-D])\b", said.strip())
    return bool(found) and found.group(1) == letter
