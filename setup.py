"""All metadata lives in pyproject.toml; this file lets older tools run `python setup.py` or `pip install -e .`."""

from setuptools import setup

setup()
