"""What a step needs besides its state, and gives back: bounds, held by the tests."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.matrices.matrix_map import BATCH_ELEMENTS
from gradopt_ds.memory.optimizers import Built
from gradopt_ds.memory.setup import Setup
from gradopt_ds.memory.tensor_exchange import tensor_exchange_bytes
from gradopt_ds.memory.zero import Group, stepped_shapes, steps_on_all_groups
from gradopt_ds.optim import MatrixOptimizer
from gradopt_ds.optim.aux_adamw import CHUNK
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.sharding.plan import COPIES, ELEMENT_BYTES

RULE_COPIES = 7
"""A batch of matrices in float32 and the rule's temporaries: six as large, at most."""

ADAM_COPIES = 2
"""torch's Adam and AdamW where they are not fused: the root of the second moment, and that root
divided. Of tensors that it steps on one after the other, that of the last is still there."""

ROUNDED_COPIES = 9
"""The auxiliary AdamW with stochastic rounding, of a chunk in float32: weight, gradient, two
moments, and five temporaries of the rounding."""


def workspace_bytes(
    built: Built,
    groups: Sequence[Sequence[Group]],
    setup: Setup,
    cuts: Mapping[Tensor, TensorCut] | None = None,
) -> int:
    """Count the bytes that a step may occupy besides gradients and state, at most.

    Args:
        built: the optimizer.
        groups: for each of its parameter groups the parameters on a rank.
        setup: of ZeRO.
        cuts: parameters of the rank's pipeline stage → how tensor parallelism cuts them; by default
            all of the optimizer's, whole.
    """
    master = setup.dtypes.masters.itemsize
    rules, copies = [], []
    for group, parts in zip(built.optimizer.param_groups, groups, strict=True):
        sizes = [prod(shape) for shapes in stepped_shapes(parts, setup) for shape in shapes]
        params = [param for param in group["params"] if cuts is None or param in cuts]
        if not params:
            continue
        if group.get("rule") == MATRIX:
            assert isinstance(built.base, MatrixOptimizer)
            blocks = {param: built.base.blocks[param] for param in params}
            if cuts is not None and setup.tensor_parallel > 1:
                own = tensor_exchange_bytes(built.base, blocks, cuts, setup)
            else:
                largest = max(block.numel for inside in blocks.values() for block in inside)
                own = _matrix_bytes(parts, largest, setup, built.base.exchange)
        else:
            own = _elementwise_bytes(built, group, sizes, setup)
        rules.append(own)
        stepped = sum(sizes) if setup.stage < 3 else max(sizes)
        copies.append(stepped * master * built.powered)
    if steps_on_all_groups(setup):  # the power copies the gradients of them all
        return max(rules) + sum(copies)
    return max(map(sum, zip(rules, copies, strict=True)))


def _elementwise_bytes(
    built: Built, group: Mapping[str, Any], sizes: Sequence[int], setup: Setup
) -> int:
    if group.get("stochastic_rounding") and setup.dtypes.masters == torch.bfloat16:
        return ROUNDED_COPIES * ELEMENT_BYTES * min(max(sizes), CHUNK)
    if not built.torch_steps or not isinstance(built.base, Adam | AdamW) or group.get("fused"):
        return 0  # one kernel without temporaries
    return (ADAM_COPIES * max(sizes) + _second(sizes, setup)) * setup.dtypes.masters.itemsize


def _second(sizes: Sequence[int], setup: Setup) -> int:
    # Stages 1 to 3 step on one slice at a time.
    return sorted(sizes)[-2] if setup.stage == 0 and len(sizes) > 1 else 0


def _matrix_bytes(
    parts: Sequence[Group], largest: int, setup: Setup, exchange: ExchangeSettings
) -> int:
    """Count for matrices, of which the largest has ``largest`` elements."""
    elements = sum(chain.from_iterable(part.numels for part in parts))
    batch = min(elements, max(BATCH_ELEMENTS, largest))
    local = RULE_COPIES * ELEMENT_BYTES * batch
    if setup.ranks == 1 or setup.stage == 0:
        return local
    if setup.stage == 3:  # every matrix is cut, and the rule is among the copies of the exchange
        local = 0
    per_element = COPIES * ELEMENT_BYTES
    bucket = max(exchange.exchange_bucket_size, per_element * largest)
    return local + min(bucket, per_element * elements)
