"""Memory of an optimizer, in bytes per rank."""

from gradopt_ds.memory.measured import optimizer_state_bytes, optimizer_state_bytes_by_key

__all__ = ["optimizer_state_bytes", "optimizer_state_bytes_by_key"]
