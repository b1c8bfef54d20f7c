"""What is said of weights that do not fit or hold no numbers."""

import pytest
import torch

from llava.model.loading import CheckpointError, check_finite, check_keys


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_first_weight_without_a_number_is_named(dtype, value):
    whole = {"a": torch.ones(3, 2), "ids": torch.arange(3), "none": torch.empty(0)}
    whole["on the disk"] = torch.empty(2, device="meta")
    check_finite("there", whole)
    bad = torch.ones(4, dtype=dtype).index_fill(0, torch.tensor(2), value)
    with pytest.raises(CheckpointError, match="^The checkpoint there holds NaN or infinite values in b;"):
        check_finite("there", {**whole, "b": bad, "c": bad, "d": torch.ones(2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": ["a"], "unknown": ["b"]}, "lacks a;"),
        ({"missing": ["b", "a"]}, "lacks a and 1 more;"),
        ({"unknown": ["a", "b", "c"], "mismatched": ["d"]}, "holds unknown a and 2 more;"),
        ({"mismatched": [("a", (2, 3), (3, 2))]}, r"holds a of shape \(2, 3\) where config.json asks for \(3, 2\);"),
        ({"mismatched": ["b", "a"]}, "holds a and 1 more in another shape;"),
    ],
)
def test_keys_that_do_not_fit_are_counted(arguments, message):
    check_keys("there")
    with pytest.raises(CheckpointError, match=f"^The checkpoint there {message}"):
        check_keys("there", **arguments)
