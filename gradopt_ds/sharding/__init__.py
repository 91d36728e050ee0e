"""ZeRO's flat slices ↔ whole matrices. This room knows torch.distributed, not DeepSpeed."""

from gradopt_ds.sharding.exchange import Exchange, ShardedMatrixMap
from gradopt_ds.sharding.layout import Layout, Matrix, Piece, contiguous_layout
from gradopt_ds.sharding.plan import Plan, make_plan

__all__ = [
    "Exchange",
    "Layout",
    "Matrix",
    "Piece",
    "Plan",
    "ShardedMatrixMap",
    "contiguous_layout",
    "make_plan",
]
