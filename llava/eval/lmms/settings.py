"""The method's settings among the ``--model_args`` of a wrapper."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from aot import AOTConfig
from aot.errors import AOTError

_NAMES = {field.name for field in fields(AOTConfig)}


def split_arguments(arguments: Mapping[str, Any]) -> tuple[AOTConfig | None, dict[str, Any]]:
    """(settings, the other arguments) of ``--model_args``; settings None for no reduction (``retention=1``).

    ``preset`` and every field of AOTConfig are taken; ``options`` as JSON, such as options={"seed": 1}. Without any
    of them the method's default settings hold. Raises AOTError for a value that is no good.
    """
    named = {key: _value(key, value) for key, value in arguments.items() if key in _NAMES}
    rest = {key: value for key, value in arguments.items() if key not in _NAMES and key != "preset"}
    config = AOTConfig.preset(str(arguments.get("preset", "default")), **named)
    everything = config.retention == 1 and config.method == "aot"
    return None if everything else config, rest


def _value(name: str, value: Any) -> Any:
    """lmms-eval hands over numbers, booleans and words; "none" and JSON are still words."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    if name != "options":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise AOTError(f'options is {value!r}; write it as JSON, such as options={{"seed": 1}}.') from error
