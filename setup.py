"""The metadata is in ``pyproject.toml``; this face is for tools that still look for it here."""

from setuptools import setup

setup()
