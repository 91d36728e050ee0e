"""Optimizers for a plain PyTorch script; DeepSpeed does not appear in this package."""

from gradopt_ds.optim.grad_power import GradPower
from gradopt_ds.optim.matrix_optimizer import MatrixOptimizer
from gradopt_ds.optim.param_groups import Assignment, assign_rules, matrix_param_groups
from gradopt_ds.optim.polargrad import Muon, PolarGrad
from gradopt_ds.optim.settings import AuxAdamW
from gradopt_ds.optim.sinkgd import SinkGD
from gradopt_ds.optim.swan import SWAN

__all__ = [
    "SWAN",
    "Assignment",
    "AuxAdamW",
    "GradPower",
    "MatrixOptimizer",
    "Muon",
    "PolarGrad",
    "SinkGD",
    "assign_rules",
    "matrix_param_groups",
]
