"""Three matrix problems on which optimizers can be told apart (scripts/matrix_problems.py)."""
