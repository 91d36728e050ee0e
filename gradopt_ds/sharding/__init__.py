"""ZeRO's flat slices ↔ whole matrices. This package knows torch.distributed, not DeepSpeed."""

from gradopt_ds.sharding.exchange import Exchange
from gradopt_ds.sharding.layout import Layout, Matrix, Piece, chunked_layout, contiguous_layout
from gradopt_ds.sharding.plan import Plan
from gradopt_ds.sharding.planner import make_plan
from gradopt_ds.sharding.sharded_map import ShardedMatrixMap
from gradopt_ds.sharding.tensor_parallel import tensor_parallel_layout

__all__ = [
    "Exchange",
    "Layout",
    "Matrix",
    "Piece",
    "Plan",
    "ShardedMatrixMap",
    "chunked_layout",
    "contiguous_layout",
    "make_plan",
    "tensor_parallel_layout",
]
