"""Checkpoints of DeepSpeed engines: the record, resuming, universal checkpoints."""
