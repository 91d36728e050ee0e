"""Parallelism beside data parallelism: what DeepSpeed does with it, and how it is read off it."""
