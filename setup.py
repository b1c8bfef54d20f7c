"""Which packages there are; all other metadata lives in pyproject.toml.

The embedded checkpoint and the tasks for lmms-eval stand beside the packages. An installation carries them inside
`llava`, where `llava.utils.shipped` finds them.
"""

from setuptools import find_packages, setup

SHIPPED = {"llava.checkpoints": "checkpoints", "llava.lmms_eval_tasks": "lmms_eval_tasks"}

setup(
    packages=[*find_packages(include=["aot", "aot.*", "aot_cli", "llava", "llava.*"]), *SHIPPED],
    package_dir=SHIPPED,
)
