"""Three matrix problems that show how optimizers differ (``scripts/matrix_problems.py``)."""
