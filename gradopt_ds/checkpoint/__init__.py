"""What a checkpoint says about itself, and parameters ↔ slices. Plain data and torch, no files."""

from gradopt_ds.checkpoint.compare import check_content, check_layout
from gradopt_ds.checkpoint.record import (
    FORMAT,
    KEY,
    Cut,
    Fragment,
    Group,
    Record,
    Slice,
    TensorRanks,
    from_state,
    to_state,
)
from gradopt_ds.checkpoint.reslice import State, parameter_state, slice_state, split
from gradopt_ds.checkpoint.shards import as_whole, join, shard, shard_of

__all__ = [
    "FORMAT",
    "KEY",
    "Cut",
    "Fragment",
    "Group",
    "Record",
    "Slice",
    "State",
    "TensorRanks",
    "as_whole",
    "check_content",
    "check_layout",
    "from_state",
    "join",
    "parameter_state",
    "shard",
    "shard_of",
    "slice_state",
    "split",
    "to_state",
]
