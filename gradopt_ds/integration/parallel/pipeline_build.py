"""Build the optimizer of one pipeline stage, by the rules of the whole model."""

from collections.abc import Mapping
from typing import Any

from deepspeed.runtime.pipe.module import PipelineModule
from torch.optim import Optimizer

from gradopt_ds.integration.checkpoints.verdict import same_end
from gradopt_ds.integration.optimizer_json import build_optimizer, without_matrices
from gradopt_ds.integration.parallel.pipeline import facts_of_all_stages, of_all_stages
from gradopt_ds.optim import MatrixOptimizer, base_of


def build_on_stages(
    name: str, params: Mapping[str, Any] | None, module: PipelineModule, model_parameters: Any
) -> Optimizer:
    """Build the optimizer of this stage. Collective; all ranks come to the same end.

    Args:
        name: see :func:`gradopt_ds.integration.optimizer_json.build_optimizer`.
        params: see there.
        module: this stage.
        model_parameters: parameters or groups of this stage.

    Raises:
        ValueError: see there; or the stages cannot be trained as one model, or none of them has a
            matrix for a matrix optimizer.
    """
    elsewhere = facts_of_all_stages(module)
    with same_end():
        optimizer = build_optimizer(name, params, module, model_parameters, elsewhere)
    base = base_of(optimizer)
    if isinstance(base, MatrixOptimizer) and not any(of_all_stages(module, bool(base.blocks))):
        raise without_matrices(module)
    return optimizer
