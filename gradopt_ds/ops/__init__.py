"""Pure functions on matrices ``[..., m, n]``: no state, no process group, no autograd."""

from gradopt_ds.ops.adaptive import Adaptive
from gradopt_ds.ops.alternating_norms import AlternatingNorms
from gradopt_ds.ops.blocks import Block
from gradopt_ds.ops.coupled_newton_schulz import CoupledNewtonSchulz
from gradopt_ds.ops.exact import SVD, Eigh
from gradopt_ds.ops.gradnorm import grad_norm
from gradopt_ds.ops.gram_newton_schulz import GramNewtonSchulz
from gradopt_ds.ops.gram_polar_express import GramPolarExpress
from gradopt_ds.ops.matrix_map import (
    MatrixMap,
    MatrixRule,
    MatrixUpdate,
    WholeMatrixMap,
    map_equal_shapes,
)
from gradopt_ds.ops.newton_schulz import NewtonSchulz
from gradopt_ds.ops.nsds import NSDS
from gradopt_ds.ops.nuclear import nuclear_norm
from gradopt_ds.ops.oracle import Oracle
from gradopt_ds.ops.polar_express import PolarExpress
from gradopt_ds.ops.power import sign_power
from gradopt_ds.ops.precision import default_compute_dtype
from gradopt_ds.ops.qdwh import QDWH
from gradopt_ds.ops.registry import ORACLES, make_oracle
from gradopt_ds.ops.row_shards import WHOLE, RowShards
from gradopt_ds.ops.whitening import swan_direction
from gradopt_ds.ops.zolo_pd import ZoloPD

__all__ = [
    "NSDS",
    "ORACLES",
    "QDWH",
    "SVD",
    "WHOLE",
    "Adaptive",
    "AlternatingNorms",
    "Block",
    "CoupledNewtonSchulz",
    "Eigh",
    "GramNewtonSchulz",
    "GramPolarExpress",
    "MatrixMap",
    "MatrixRule",
    "MatrixUpdate",
    "NewtonSchulz",
    "Oracle",
    "PolarExpress",
    "RowShards",
    "WholeMatrixMap",
    "ZoloPD",
    "default_compute_dtype",
    "grad_norm",
    "make_oracle",
    "map_equal_shapes",
    "nuclear_norm",
    "sign_power",
    "swan_direction",
]
