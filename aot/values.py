"""Values that a method cannot work with, NaN and Inf first of all: refused on a CPU, left out and marked on a device.

Reading a value makes the host wait for a GPU. There the places that hold such values are set to 0, so that no other
token suffers and the count stays exact, and a mask remembers them. `CompressedVideo.check` reads the masks when
somebody asks.
"""

import torch

from .errors import AOTError

# lengths and importance above it are refused: products of two, times the tokens of a frame, stay within float32
LARGEST = 1e16


def tokens_in_range(tokens: torch.Tensor) -> torch.Tensor:
    """(...,) bool for tokens (..., D): no NaN, no Inf, a length of at most LARGEST."""
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32) <= LARGEST


def importance_in_range(values: torch.Tensor) -> torch.Tensor:
    """Bool of the same shape: a number from 0 to LARGEST."""
    return values == values.clamp(0, LARGEST)


def read_at_once(values: torch.Tensor) -> bool:
    """Whether the host reads these values without waiting for a device."""
    return values.device.type == "cpu"


def refuse(name: str, usable: torch.Tensor) -> None:
    """AOTError where a mask (T, P) of usable places is not True everywhere, naming the first one."""
    if usable.device.type == "meta" or bool(usable.all()):
        return
    bad = (~usable).nonzero()
    where = f", first in frame {int(bad[0, 0])} at token {int(bad[0, 1])}" if bad.shape[1] == 2 else ""
    raise AOTError(
        f"{name} cannot be used at {len(bad)} of {usable.numel()} places{where}: NaN, Inf, a negative importance or a "
        f"length above {LARGEST:g}; look at what made it, such as a tower in float16."
    )
