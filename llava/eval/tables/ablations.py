"""The ablations: which settings are compared with which, one line each.

Every group starts with the setting that the others are measured against. "{r}" is the retention. `paper@` and
`released@` take the number of anchors that comes nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ablation:
    """One variant: its group, what it is in words, and its setting with the retention as {r}."""

    group: str
    label: str
    template: str

    def setting(self, retention: float) -> str:
        return self.template.replace("{r}", f"{retention:g}")


def _group(name: str, base: str, variants: dict[str, str]) -> list[Ablation]:
    """Variants by label, each what stands behind the retention of a base setting: fields, "+CHANGE" or nothing."""
    return [
        Ablation(name, label, f"{base}@{{r}}" + (f",{changes}" if "=" in changes else changes))
        for label, changes in variants.items()
    ]


PAPER = [
    *_group("paper: anchors", "paper", {
        "local and global": "",
        "local only": "global_ratio=0",
        "global only": "global_ratio=1",
        "random": "+random_importance",
    }),
    *_group("paper: transport", "paper", {
        "intra-frame and inter-frame": "",
        "none": "merge_strength=0,inter_frame=false",
        "intra-frame only": "inter_frame=false",
        "inter-frame only": "merge_strength=0",
    }),
    *_group("paper: aggregation within frames", "paper", {
        "transport, mass 1/M": "",
        "none": "merge_strength=0",
        "mean by cosine": "merge_strength=0,hard_assignment=1",
        "transport, mass 1": "source_mass=unit",
        "transport, mass by attention": "source_mass=attention",
    }),
    *_group("paper: clips", "paper", {
        "uniform": "",
        "of 4 frames": "clip_length=4",
        "of 8 frames": "clip_length=8",
        "dynamic": "clips=dynamic",
    }),
    *_group("paper: iterations", "paper", {
        "100": "",
        "1": "iterations=1",
        "5": "iterations=5",
        "20": "iterations=20",
        "500": "iterations=500",
    }),
    *_group("paper: spatial term", "paper", {"none": "", "0.5": "spatial_weight=0.5"}),
]  # fmt: skip

RELEASED = [
    *_group("released: its own steps", "released", {
        "as released": "",
        "mass 1": "source_mass=unit",
        "no spatial term": "spatial_weight=0",
        "no blend": "hard_assignment=0",
        "anchors once": "emit_anchors=once",
        "anchors once, a newline per frame": "emit_anchors=once,newlines=frame",
        "each problem by its own error": "sinkhorn_stop=problem,tolerance=0.001",
        "threshold on the plan": "dynamic_rule=threshold",
    }),
]  # fmt: skip

OURS = [
    *_group("default: anchors", "aot", {
        "local and global": "",
        "local only": "global_ratio=0",
    }),
    *_group("default: weights", "aot", {
        "attention and change": "",
        "no attention": "attention_power=0",
        "no change": "change_power=0",
        "neither: every token counts alike": "attention_power=0,change_power=0",
        "attention and change in full": "attention_power=1,change_power=1",
        "random for attention": "+random_importance",
    }),
    *_group("default: cost", "aot", {
        "features, places and time": "",
        "features alone": "spatial_weight=0,temporal_weight=0",
        "no places": "spatial_weight=0",
        "no time": "temporal_weight=0",
        "places twice as much": "spatial_weight=0.5",
        "time half as much": "temporal_weight=0.1",
        "time twice as much": "temporal_weight=0.4",
    }),
    *_group("default: transport", "aot", {
        "as it is": "",
        "none": "merge_strength=0",
        "share bounded by a fifth": "merge_cap=0.2",
        "share not bounded": "merge_cap=1",
    }),
    *_group("default: plan", "aot", {
        "nearest mass, ε 0.01": "",
        "nearest mass, ε 0.1": "epsilon=0.1",
        "half uniform, ε 0.1": "epsilon=0.1,uniform_marginal=0.5",
        "uniform, ε 0.1": "epsilon=0.1,uniform_marginal=1",
        "uniform, ε 0.1, 1 iteration": "epsilon=0.1,uniform_marginal=1,iterations=1,sinkhorn_stop=never",
        "uniform, ε 0.1, 10 iterations": "epsilon=0.1,uniform_marginal=1,iterations=10,sinkhorn_stop=never",
    }),
    *_group("default: clips", "aot", {
        "uniform, of 4 frames": "",
        "single frames: the same count for each": "clip_length=1",
        "of 2 frames": "clip_length=2",
        "of 8 frames": "clip_length=8",
        "of 16 frames": "clip_length=16",
        "dynamic": "clips=dynamic",
    }),
    *_group("default: newline tokens", "aot", {
        "one per frame": "",
        "one per row that kept a token": "newlines=row",
        "all": "newlines=all",
        "none": "newlines=none",
    }),
    *_group("default: order of the tokens", "aot", {
        "frame and raster": "",
        "shuffled within frames": "+shuffled_in_frames",
        "shuffled over the video": "+shuffled",
    }),
]  # fmt: skip

ABLATIONS = [*PAPER, *RELEASED, *OURS]
