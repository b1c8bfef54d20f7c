"""Files that come with the project: beside the packages in a checkout, inside `llava` in an installation."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path | None:
    """The path of a folder such as "checkpoints/aot-tiny"; None when this installation does not hold it."""
    return next((root / folder for root in (_PACKAGE.parent, _PACKAGE) if (root / folder).is_dir()), None)
