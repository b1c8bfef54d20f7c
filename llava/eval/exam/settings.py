"""Settings of the exam by name.

"full" (no compression), "blank" (no compression, grey frames), METHOD@RETENTION with further fields of AOTConfig behind
it (aot@0.1,clips=dynamic; options as METHOD@RETENTION,options={"seed":1}), or PRESET@RETENTION for a preset with token
counts of its own: its num_anchors is then the one that comes nearest to this retention on the exam's first clips.
"+CHANGE" behind a name asks for an ablation of `llava.eval.exam.perturb`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aot import AOTConfig
from aot.config import PRESETS
from aot.methods.in_llm import is_in_llm
from aot.registry import get_method
from aot_cli.parser import share
from llava.chat.options import json_or_word
from llava.eval.exam.perturb import PERTURBATIONS

OWN_COUNTS = tuple(name for name, changes in PRESETS.items() if changes.get("variant") == "paper")
KNOWN = "full, blank, METHOD@RETENTION[,FIELD=VALUE…] or PRESET@RETENTION[,FIELD=VALUE…], and +CHANGE"


@dataclass(frozen=True)
class Setting:
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


def parse_setting(name: str) -> Setting:
    """The setting of a name; ValueError says what is wrong with one that is none."""
    name = re.sub(r"@([\d.]+ ?%)", lambda found: f"@{share(found[1]):g}", name)  # 10% is 0.1
    if name in ("full", "blank"):
        return Setting(name, blank=name == "blank")
    described, *perturbations = re.split(r"\+(?=[a-z_]+$)", name)
    perturbation = perturbations[0] if perturbations else None
    head, *fields = re.split(r",(?=\w+=)", described)
    method, _, kept = head.partition("@")
    try:
        retention = float(kept)
        changes = {key: json_or_word(text) for key, text in (field.split("=", 1) for field in fields)}
        AOTConfig(retention=retention)  # in range
        own = method in OWN_COUNTS
        config = (
            AOTConfig.preset(method, **changes)
            if own
            else AOTConfig.from_dict({"method": method, "retention": retention, **changes})
        )
        if perturbation:
            _check_perturbation(perturbation, config)
        return Setting(name, config, fit=own, retention=retention, perturbation=perturbation)
    except ValueError as error:
        raise ValueError(f"{name!r} is not a setting ({KNOWN}): {error}") from error


def _check_perturbation(perturbation: str, config: AOTConfig) -> None:
    """ValueError for a change that there is not, or that would change nothing."""
    if perturbation not in PERTURBATIONS:
        raise ValueError(f"+{perturbation} is none of the changes {', '.join(PERTURBATIONS)}")
    if is_in_llm(config):
        raise ValueError(
            f"+{perturbation} changes what stands before the language model; {config.method} acts inside it"
        )
    if perturbation == "random_importance" and not {"shallow", "deep"} & {*get_method(config.method).requires}:
        raise ValueError(f"+{perturbation} changes nothing, since {config.method} reads no importance")
