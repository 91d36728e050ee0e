"""SWAN, SinkGD, PolarGrad, Muon and GradPower for DeepSpeed.

``import gradopt_ds``, then name them in the JSON. Importing this package extends
``deepspeed.initialize`` by this library's optimizer names; configs that name other optimizers are
not affected, but an object of this library that another optimizer would replace is an error.
Without DeepSpeed installed the optimizers still work in a plain PyTorch script.
"""

from importlib.util import find_spec

from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.optim import (
    SWAN,
    AuxAdamW,
    GradPower,
    MatrixOptimizer,
    Muon,
    PolarGrad,
    SinkGD,
    assign_rules,
    matrix_param_groups,
)

__version__ = "0.2.0"

__all__ = [
    "SWAN",
    "AuxAdamW",
    "ExchangeSettings",
    "GradPower",
    "MatrixOptimizer",
    "Muon",
    "PolarGrad",
    "SinkGD",
    "assign_rules",
    "matrix_param_groups",
]

if find_spec("deepspeed") is not None:
    from gradopt_ds.integration import (
        install,
        register_optimizer,
        take_settings_from_config,
        trainer_optimizer,
    )

    __all__ += ["register_optimizer", "take_settings_from_config", "trainer_optimizer"]
    install()
