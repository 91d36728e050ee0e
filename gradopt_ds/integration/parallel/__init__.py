"""Parallelism besides ZeRO's: who has which part of the whole model, or of its input."""
