"""The worlds by name: where the clips and questions of an exam, of the demonstration and of `aot clip` come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from aot_tiny.film import clips as film_clips
from aot_tiny.film import questions as film_questions
from aot_tiny.film import render as film_render
from aot_tiny.shapes import clips as shapes_clips
from aot_tiny.shapes import questions as shapes_questions


@dataclass(frozen=True, eq=False)
class World:
    """Where clips and questions come from.

    sample, write: draw the clip of a seed, write it as MP4 and return it; both are called with `kinds`. draw: a clip's
    frames at some instants, and how much of each cell each thing covers. questions: a module with FAMILIES, ANSWERS,
    CHOICE_PROMPTS, LETTERS, CAPTION_PROMPTS, make_questions, open_correct, choice_correct, caption and caption_f1.
    strata: of a clip, further columns to group its records by. frames: how many of a clip a model looks at, None for
    its own number. even_families: whether families with few questions come first, so that fewer clips are needed.
    demo: the demonstration's clip.
    """

    sample: Callable[..., Any]
    write: Callable[..., Any]
    draw: Callable[..., Any]
    questions: ModuleType
    demo: int
    strata: Callable[[Any], dict[str, str]] = lambda clip: {}
    frames: Callable[[Any], int | None] = lambda clip: None
    even_families: bool = False
    kinds: Mapping[str, Any] = field(default_factory=dict)

    @lru_cache(maxsize=2048)  # noqa: B019 - the worlds live as long as the program; a film clip takes long to draw up
    def sample_clip(self, seed: int) -> Any:
        return self.sample(seed, **self.kinds)

    def write_clip(self, path: str | Path, seed: int) -> Any:
        return self.write(path, seed, **self.kinds)

    def score_open(self, said: str, question: film_questions.Question) -> float:
        """0 or 1 for an open answer."""
        return float(self.questions.open_correct(said, question))

    def details(self, said: str, question: film_questions.Question) -> dict[str, float]:
        """What else is told of an open answer: of an interval how far it overlaps the right one."""
        return {"iou": film_questions.interval_iou(said, question.answer)} if question.family == "grounding" else {}


def _film_strata(clip: film_clips.Clip) -> dict[str, str]:
    """Whether the camera moves, how, and the length in frames; "mixed" for scenes that differ in how."""
    moves = {camera.kind for camera in clip.cameras} - {"still"}
    motion = moves.pop() if len(moves) == 1 else "mixed" if moves else "still"
    return {"camera": clip.camera, "camera motion": motion, "frames": str(clip.frames)}


WORLDS = {
    "shapes": World(
        shapes_clips.sample_clip,
        shapes_clips.write_clip,
        shapes_clips.render_with_coverage,
        shapes_questions,
        demo=900_001,  # the first whose questions the model gets right with all tokens
    ),
    "film": World(
        film_clips.sample_clip,
        film_render.write_clip,
        film_render.render_with_coverage,
        film_questions,
        demo=900_002,  # a clip of 16 frames, as many as a chat looks at
        strata=_film_strata,
        frames=lambda clip: clip.frames,
        even_families=True,
        kinds={"sign": 0.9},  # else reading alone would need three times as many clips
    ),
}


def checkpoint_world(folder: str | Path) -> str:
    """The name of the world that a checkpoint has learnt, `exam_world` of its configuration; shapes where none is."""
    path = Path(folder, "config.json")
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(settings.get("exam_world") or "shapes")


def world_named(name: str) -> World:
    """The world of a name. ValueError for one that there is not."""
    if name not in WORLDS:
        raise ValueError(f"There is no world {name!r}; use one of: {', '.join(WORLDS)}.")
    return WORLDS[name]
