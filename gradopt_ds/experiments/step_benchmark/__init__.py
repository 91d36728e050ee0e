"""The optimizer step of real DeepSpeed engines, timed and counted side by side."""
