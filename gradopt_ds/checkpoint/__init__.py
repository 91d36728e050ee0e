"""What a checkpoint says about itself, and parameters ↔ slices. Plain data and torch, no files."""

from gradopt_ds.checkpoint.compare import check_content, check_layout, check_stages
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
from gradopt_ds.checkpoint.stages import groups_of, joined, seen_from

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
    "check_stages",
    "from_state",
    "groups_of",
    "join",
    "joined",
    "parameter_state",
    "seen_from",
    "shard",
    "shard_of",
    "slice_state",
    "split",
    "to_state",
]
