"""What the exam is sat under: settings by name, and sweeps over methods and ablations.

A setting is "full" (no compression), "blank" (no compression, grey frames), METHOD@RETENTION with further fields of
AOTConfig behind it (aot@0.1,clips=dynamic; options as METHOD@RETENTION,options={"seed":1}), or PRESET@RETENTION for a
preset with token counts of its own: its num_anchors is then the one that comes nearest to this retention on the exam's
first clips. "+CHANGE" behind a name asks for an ablation of `llava.eval.exam.perturb`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aot
from aot import AOTConfig
from aot.config import PRESETS
from aot.methods.in_llm import IN_LLM, is_in_llm
from aot_cli.parser import pair, share
from aot_tiny.worlds import checkpoint_world
from llava.eval.exam.perturb import PERTURBATIONS
from llava.eval.sweep import SweepError, build, check_count
from llava.model.builder import FEW_BITS

OWN_COUNTS = tuple(name for name, changes in PRESETS.items() if changes.get("variant") == "paper")
KNOWN = "full, blank, METHOD@RETENTION[,FIELD=VALUE…] or PRESET@RETENTION[,FIELD=VALUE…], and +CHANGE"
PARTS = ("methods", "ablations", "inside")  # of a sweep; inside the language model every prompt is asked by itself


@dataclass(frozen=True)
class ExamSetting:
    """How the exam is sat.

    config: compression, or None. fit: the num_anchors that meets the retention is to be found. retention: None
    without reduction. perturbation: one of `PERTURBATIONS`, or None.
    """

    name: str
    config: AOTConfig | None = None
    blank: bool = False
    fit: bool = False
    retention: float | None = None
    perturbation: str | None = None

    @property
    def inside(self) -> bool:
        """Whether it drops tokens inside the language model, so that its share is an average over layers."""
        return is_in_llm(self.config)

    @property
    def method(self) -> str:
        """The name without the retention: the method and what was changed about it."""
        return re.sub("@[^,+]*", "", self.name)


def parse_setting(name: str) -> ExamSetting:
    """The setting of a name; ValueError says what is wrong with one that is none."""
    name = re.sub(r"@([\d.]+ ?%)", lambda found: f"@{share(found[1]):g}", name)  # 10% is 0.1
    if name in ("full", "blank"):
        return ExamSetting(name, blank=name == "blank")
    described, *perturbations = re.split(r"\+(?=[a-z_]+$)", name)
    perturbation = perturbations[0] if perturbations else None
    head, *changed = re.split(r",(?=\w+=)", described)
    method, _, kept = head.partition("@")
    try:
        retention = float(kept)
        changes = dict(map(pair, changed))
        AOTConfig(retention=retention)  # in range
        own = method in OWN_COUNTS
        config = (
            AOTConfig.preset(method, **changes)
            if own
            else AOTConfig.from_dict({"method": method, "retention": retention, **changes})
        )
        if perturbation not in (None, *PERTURBATIONS):
            raise ValueError(f"+{perturbation} is none of the changes {', '.join(PERTURBATIONS)}")
        if perturbation and is_in_llm(config):
            raise ValueError(
                f"+{perturbation} changes what stands before the language model; {config.method} acts inside it"
            )
        if perturbation == "random_importance" and not {"shallow", "deep"} & {*config.requires}:
            raise ValueError(f"+{perturbation} changes nothing, since {config.method} reads no importance")
        return ExamSetting(name, config, fit=own, retention=retention, perturbation=perturbation)
    except ValueError as error:
        raise ValueError(f"{name!r} is not a setting ({KNOWN}): {error}") from error


@dataclass(frozen=True)
class Ablation:
    """One variant: its group, what it is in words, and its setting with the retention as {r}."""

    group: str
    label: str
    template: str

    def setting(self, retention: float) -> str:
        return self.template.replace("{r}", f"{retention:g}")


@dataclass(frozen=True)
class ExamSweep:
    """An exam and what it is sat under, as a YAML file says it.

    checkpoint: folder of the model. tower_dtype, quantization: how it is loaded, as by the options of `aot chat`.
    world: of the clips, one of `aot_tiny.worlds.WORLDS`; the model's own where none is said. questions: how many. seed:
    the first clip. captioned: clips whose captions are scored. settings: names; one that cannot run is an error.
    retentions: shares at which every method is asked. inside: what is asked of the methods inside the language model,
    as changes behind their names. ablations: at the retention ablations_at; each group's reference first.
    """

    name: str
    title: str
    checkpoint: str
    world: str | None = None
    tower_dtype: str | None = None
    quantization: str | None = None
    questions: int = 1040
    seed: int = 0
    captioned: int = 50
    settings: tuple[str, ...] = ()
    retentions: tuple[float, ...] = ()
    inside: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    ablations_at: float = 0.1

    def __post_init__(self) -> None:
        for name, low in (("questions", 1), ("seed", 0), ("captioned", 0)):
            check_count(name, getattr(self, name), low)
        for value in (*self.retentions, self.ablations_at):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise SweepError(f"{value!r} is no share of the tokens; use a number such as 0.1.")
        for value, known in ((self.tower_dtype, ("float32", "bfloat16")), (self.quantization, FEW_BITS)):
            if value is not None and value not in known:
                raise SweepError(f"{value!r} is none of {', '.join(known)}; use one of them, or leave it out.")
        for value in (*self.settings, *self.inside):
            if not isinstance(value, str):
                raise SweepError(f"{value!r} stands where a text is needed; put it in quotes.")

    @property
    def world_name(self) -> str:
        """The world that is asked about."""
        return self.world or checkpoint_world(self.checkpoint)

    @property
    def header(self) -> dict[str, str]:
        """What headers of results say of the world, where it is not the first one, and of how the model is loaded."""
        said = {"world": self.world_name} if self.world_name != "shapes" else {}
        loaded = {"tower_dtype": self.tower_dtype, "quantization": self.quantization}
        return said | {name: value for name, value in loaded.items() if value is not None}

    def part(self, name: str) -> list[str]:
        """The settings of one of `PARTS`."""
        if name == "methods":
            return [setting for retention in self.retentions for setting in methods_at(retention)]
        if name == "inside":
            named = [(method, retention) for retention in self.retentions for method in IN_LLM]
            return [f"{method}@{retention:g}{change}" for method, retention in named for change in self.inside]
        return list(dict.fromkeys(ablation.setting(self.ablations_at) for ablation in self.ablations))


def methods_at(retention: float) -> list[str]:
    """Every registered method that acts before the language model, and every preset with counts of its own."""
    methods = [name for name in aot.method_names() if name not in IN_LLM]
    return [f"{method}@{retention:g}" for method in (*methods, *OWN_COUNTS)]


def exam_sweep_from(data: Mapping[str, Any]) -> ExamSweep:
    """The sweep of a YAML file with an `exam`. Raises SweepError in one sentence for anything unknown or missing."""
    values = {**data, **data["exam"]} if isinstance(data["exam"], Mapping) else {}
    values.pop("exam", None)
    if not values:
        raise SweepError("exam must be a mapping in the sweep.")
    try:
        ablations = tuple(
            Ablation(group["group"], label, f"{group['base']}@{{r}}" + (f",{changes}" if "=" in changes else changes))
            for group in values.pop("ablations", None) or ()
            for label, changes in group["variants"].items()
        )
        lists = {key: tuple(values.pop(key, None) or ()) for key in ("settings", "retentions", "inside")}
    except (TypeError, KeyError, AttributeError) as error:  # a group of ablations that is no mapping
        raise SweepError(f"The exam's sweep has a part of the wrong kind or lacks one ({error}).") from error
    return build(ExamSweep, {"title": values["name"], **values, **lists, "ablations": ablations}, "the sweep")
