"""Pure functions on matrices ``[..., m, n]``: no state, no process group, no autograd."""

from gradopt_ds.ops.alternating_norms import AlternatingNorms
from gradopt_ds.ops.gradnorm import grad_norm
from gradopt_ds.ops.nuclear import nuclear_norm
from gradopt_ds.ops.oracles.adaptive import Adaptive
from gradopt_ds.ops.oracles.coupled_newton_schulz import CoupledNewtonSchulz
from gradopt_ds.ops.oracles.exact import SVD, Eigh
from gradopt_ds.ops.oracles.gram_newton_schulz import GramNewtonSchulz
from gradopt_ds.ops.oracles.gram_polar_express import GramPolarExpress
from gradopt_ds.ops.oracles.newton_schulz import NewtonSchulz
from gradopt_ds.ops.oracles.nsds import NSDS
from gradopt_ds.ops.oracles.oracle import Oracle
from gradopt_ds.ops.oracles.polar_express import PolarExpress
from gradopt_ds.ops.oracles.precision import default_compute_dtype
from gradopt_ds.ops.oracles.qdwh import QDWH
from gradopt_ds.ops.oracles.registry import ORACLES, make_oracle, oracle_spec
from gradopt_ds.ops.oracles.zolo_pd import ZoloPD
from gradopt_ds.ops.power import sign_power
from gradopt_ds.ops.whitening import swan_direction, whitened

__all__ = [
    "NSDS",
    "ORACLES",
    "QDWH",
    "SVD",
    "Adaptive",
    "AlternatingNorms",
    "CoupledNewtonSchulz",
    "Eigh",
    "GramNewtonSchulz",
    "GramPolarExpress",
    "NewtonSchulz",
    "Oracle",
    "PolarExpress",
    "ZoloPD",
    "default_compute_dtype",
    "grad_norm",
    "make_oracle",
    "nuclear_norm",
    "oracle_spec",
    "sign_power",
    "swan_direction",
    "whitened",
]
