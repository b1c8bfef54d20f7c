"""Checks of single settings, each with one clear sentence."""

import math
from decimal import Decimal
from numbers import Integral, Rational, Real
from typing import Any

from .errors import AOTError

NEWLINE_POSITIONS = ("grid", "frame", "one_token", "no_token")


def check_newline_position(position: str) -> None:
    """AOTError unless `position` is one of the host model's newline modes."""
    if position not in NEWLINE_POSITIONS:
        raise AOTError(f"Unknown newline_position {position!r}; use one of: {', '.join(NEWLINE_POSITIONS)}.")


def number(name: str, value: Any, low: float, high: float, open_low: bool) -> float:
    """value as a float in [low, high], or (low, high] when open_low; AOTError names the setting else."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise AOTError(f"{name} is {value!r}; use a number.")
    if isinstance(value, Rational):
        number = float(Decimal(int(value.numerator)) / int(value.denominator))
    else:
        number = float(str(value))  # numpy's float32(0.1) means 0.1, not 0.10000000149
    inside = low < number <= high if open_low else low <= number <= high
    if not inside or math.isinf(number):
        bracket = "(" if open_low else "["
        raise AOTError(f"{name} is {value!r}; use a number in {bracket}{low:g}, {high:g}].")
    return number


def count(name: str, value: Any, low: int) -> int:
    """value as an int of at least low; AOTError names the setting else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise AOTError(f"{name} is {value!r}; use a whole number.")
    if value < low:
        raise AOTError(f"{name} is {value!r}; use at least {low}.")
    return int(value)
