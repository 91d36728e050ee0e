"""The contracts: which matrices lie in a parameter, and how a rule reaches them."""

from gradopt_ds.matrices.arrangement import Arrangement, arranged
from gradopt_ds.matrices.blocks import Block
from gradopt_ds.matrices.exchange_settings import ExchangeSettings
from gradopt_ds.matrices.matrix_map import (
    MatrixMap,
    MatrixUpdates,
    WholeMatrixMap,
    map_equal_shapes,
)
from gradopt_ds.matrices.row_shards import WHOLE, MatrixRule, RowShards

__all__ = [
    "WHOLE",
    "Arrangement",
    "Block",
    "ExchangeSettings",
    "MatrixMap",
    "MatrixRule",
    "MatrixUpdates",
    "RowShards",
    "WholeMatrixMap",
    "arranged",
    "map_equal_shapes",
]
