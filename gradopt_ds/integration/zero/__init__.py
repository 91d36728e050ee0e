"""What DeepSpeed's ZeRO wrappers hold, and where: the only place that knows their attributes."""
