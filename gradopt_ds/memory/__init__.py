"""Memory of training, in bytes per rank: estimated from shapes, read off live engines."""

from gradopt_ds.memory.state_bytes import optimizer_state_bytes, optimizer_state_bytes_by_key

__all__ = ["optimizer_state_bytes", "optimizer_state_bytes_by_key"]
