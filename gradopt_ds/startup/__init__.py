"""The folder that ``gradopt-ds run`` puts on ``PYTHONPATH``; nothing imports it by this name."""
