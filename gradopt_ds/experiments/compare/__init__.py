"""Several pre-training runs side by side: ``scripts/compare.py``."""
