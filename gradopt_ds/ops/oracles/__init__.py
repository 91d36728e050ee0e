"""One oracle a file: ways to compute the polar factor of a matrix."""
