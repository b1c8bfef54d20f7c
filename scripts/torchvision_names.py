"""Lets a torchvision built for CUDA be imported beside a CPU build of torch; scripts/test_vllm.sh puts it in place.

Its compiled operators cannot load there, and its import ends for want of their names. The names alone are declared,
just before torchvision is first imported: what vLLM and transformers use of it here is plain Python.
"""

import importlib.abc
import sys


class Declare(importlib.abc.MetaPathFinder):
    """Finds nothing; when torchvision is looked for, declares its operators and goes away."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                declared = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", declared)


sys.meta_path.insert(0, Declare())
