"""The ablations: which settings are compared with which, as `ablations.yaml` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

LIST = Path(__file__).with_name("ablations.yaml")


@dataclass(frozen=True)
class Ablation:
    """One variant: its group, what it is in words, and its setting with the retention as {r}."""

    group: str
    label: str
    template: str

    def setting(self, retention: float) -> str:
        return self.template.replace("{r}", f"{retention:g}")


def read_ablations(path: Path = LIST) -> list[Ablation]:
    """Every variant of every group, each group's reference first."""
    return [
        Ablation(group["group"], label, f"{group['base']}@{{r}}" + (f",{changes}" if "=" in changes else changes))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))
        for label, changes in group["variants"].items()
    ]


ABLATIONS = read_ablations()
