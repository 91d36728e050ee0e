"""Real English text that comes with the package; the README states origin and licence."""
