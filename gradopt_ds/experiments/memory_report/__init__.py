"""``scripts/memory.py``: estimates and measurements as tables, files and a picture."""
