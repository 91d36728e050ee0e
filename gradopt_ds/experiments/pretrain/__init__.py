"""Pre-training a language model with any optimizer that DeepSpeed's JSON names."""
