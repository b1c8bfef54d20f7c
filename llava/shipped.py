"""Files that come with the project: beside the packages in a checkout, inside `llava` in an installation."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(*parts: str) -> Path | None:
    """The path of a folder such as ("checkpoints", "aot-tiny"); None when this installation does not hold it."""
    for root in (_PACKAGE.parent, _PACKAGE):
        if (root / Path(*parts)).is_dir():
            return root / Path(*parts)
    return None
