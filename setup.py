"""The metadata is in ``pyproject.toml``; this file is for tools that still look for it here."""

from setuptools import setup

setup()
