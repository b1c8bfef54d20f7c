"""Which packages there are; all other metadata lives in pyproject.toml.

The embedded checkpoint and the tasks for lmms-eval stand beside the packages. An installation carries them inside
`llava`, where `llava.utils.shipped` finds them.
"""

from setuptools import find_packages, setup

OURS = ("aot", "aot_cli", "aot_tiny", "llava")
SHIPPED = {"llava.checkpoints": "checkpoints", "llava.lmms_eval_tasks": "lmms_eval_tasks"}
# folders of data that Python could import, so setuptools wants them named
DATA = ("llava.eval.sweeps", "llava.lmms_eval_tasks.aot_clips", "llava.lmms_eval_tasks.groups")

setup(
    packages=[*find_packages(include=[*OURS, *(f"{name}.*" for name in OURS)]), *SHIPPED, *DATA],
    package_dir=SHIPPED,
)
