"""DeepSpeed MoE layers on real engines: each function is one test of ``test_experts.py``."""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import groups
from torch import Tensor

import gradopt_ds  # noqa: F401  (registers the optimizers)
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.integration.checkpoints.universal import convert
from gradopt_ds.matrices import RowShards
from tests.distributed.cases import RECIPES
from tests.distributed.expert_model import (
    EXPERTS_PER_RANK,
    STACK,
    ExpertLM,
    build_expert_model,
    global_name,
    matrices,
)
from tests.distributed.model import SAMPLES, micro_batch
from tests.distributed.observe import captured_gradients, clipped, masters, single_process_gradients
from tests.reference import Array, Reference

STEPS = 3


PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}},
    "autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
}


@dataclass(frozen=True)
class Case:
    """One engine configuration."""

    optimizer: str
    ep_size: int
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clipping: float = 0.0
    zero: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The DeepSpeed JSON."""
        return {
            "train_micro_batch_size_per_gpu": SAMPLES,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clipping,
            "zero_optimization": {"stage": self.stage, **self.zero},
            "optimizer": RECIPES[self.optimizer].config,
            **PRECISIONS[self.precision],
            **self.extra,
        }

    @property
    def tolerance(self) -> float:
        """The relative error of an update.

        An expert with two tokens has a gradient of rank 2; half precision adds its rounding, and
        the condition number is 1e5 to 1e6: float32's rounding of SWAN's first stage times that.
        """
        return 1e-4 if self.precision == "fp32" else 3e-3

    @property
    def experts(self) -> int:
        """Their number."""
        return EXPERTS_PER_RANK * self.ep_size

    @property
    def ep_rank(self) -> int:
        """Which experts this rank has."""
        return dist.get_rank() % self.ep_size


SHARED = [
    Case(optimizer, 2, stage, precision, 2)
    for stage in (0, 1, 2)
    for optimizer, precision in (("SWAN", "fp32"), ("PolarGrad", "bf16"))
]
"""On two ranks every expert is on one; on four it is on two, and cut."""

ON_TWO_RANKS = [
    *(Case(optimizer, 1, stage, precision)
      for stage in (0, 1, 2)
      for optimizer, precision in (("SWAN", "bf16"), ("PolarGrad", "fp32"))),
    *(Case("PolarGrad", 2, stage, clipping=0.05) for stage in (1, 2)),
    Case("MuonPower", 2, 2),
    Case("SinkGD", 2, 1),
    Case("AdamPower", 2, 2, "bf16"),
    *(Case("PolarGrad", ep_size, 2, clipping=0.05, zero={"offload_optimizer": {"device": "cpu"}})
      for ep_size in (1, 2)),
    *(Case("PolarGrad", 2, stage, "fp16", 2) for stage in (0, 1, 2)),
    *(Case("SWAN", 2, stage, "autocast") for stage in (0, 2)),
    Case("SWAN", 2, 2, zero={"round_robin_gradients": True}),
    Case("SWAN", 2, 1, "bf16", 2, extra={"data_types": {"grad_accum_dtype": "fp32"}}),
]  # fmt: skip


def cases() -> list[Case]:
    """Those for this number of ranks."""
    return [*SHARED, *ON_TWO_RANKS] if dist.get_world_size() == 2 else SHARED


def start(case: Case) -> Any:
    """An engine; every rank has the experts that are its own."""
    model = build_expert_model(case.experts, case.ep_size, case.ep_rank)
    return deepspeed.initialize(model=model, config=case.config())[0]


def forward_backward(engine: Any, case: Case, step: int) -> None:
    """All micro-batches of a step, the optimizer's step left out."""
    for micro in range(case.accumulation):
        engine.backward(engine(micro_batch(step, micro, dist.get_rank())))
        if micro < case.accumulation - 1:
            engine.step()


def train(engine: Any, case: Case, steps: range) -> None:
    """Take optimizer steps."""
    for step in steps:
        forward_backward(engine, case, step)
        engine.step()


def steps_equal_the_reference() -> None:
    """Every expert, wherever it is and however it is cut, against float64."""
    for case in cases():
        recipe = RECIPES[case.optimizer]
        engine, twin = start(case), single_process_model(case)
        before = masters(engine)
        whole = {name: global_name(name, case.ep_rank) for name in before}
        references = {
            name: Reference(
                recipe.matrices if whole[name] in matrices(case.experts) else recipe.others, weight
            )
            for name, weight in before.items()
        }
        for step in range(STEPS):
            forward_backward(engine, case, step)
            single = single_process_gradients(twin, step, case.accumulation)
            if case.zero.get("round_robin_gradients"):
                # DeepSpeed's own look-up goes to the wrong elements.
                gradients = {name: single[whole[name]] for name in whole}
            else:
                gradients = captured_gradients(engine)
            for name, gradient in gradients.items():
                # In half precision another token may be routed elsewhere.
                if case.precision == "fp32":
                    assert relative(gradient, single[whole[name]]) < 1e-5, (case, name)
            if case.clipping:
                # By the norm over all experts, of which a rank sees its own.
                gradients = {name: clipped(single, case.clipping)[whole[name]] for name in whole}
            engine.step()
            after = masters(engine)
            if case.zero.get("round_robin_gradients"):
                # The single process differs by rounding, which is no less than such directions.
                references = {n: one for n, one in references.items() if full_rank(gradients[n])}
                assert any(name.startswith(STACK) for name in references)
            for name, reference in references.items():
                reference.weight = before[name].copy()
                reference.step(gradients[name])
                expected = reference.weight - before[name]
                error = relative(after[name] - before[name], expected)
                assert error < case.tolerance, f"{case}: {name} at step {step}: {error}"
            before = after
            copy_to_twin(engine, twin, whole)
        engine.destroy()


def relative(found: Array, expected: Array) -> float:
    """Error in the Frobenius norm; NaN fails every comparison."""
    if not expected.any():  # An expert without tokens.
        return float(np.abs(found).max())
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def full_rank(gradient: Array) -> bool:
    """Whether enough tokens reached the matrix; true of what is no matrix."""
    return gradient.ndim < 2 or bool(np.linalg.cond(gradient) < 1e4)


def single_process_model(case: Case) -> ExpertLM:
    """All experts on every rank, and no communication."""
    twin = build_expert_model(case.experts)
    twin.mixture.set_deepspeed_parallelism()
    return twin


def copy_to_twin(engine: Any, twin: ExpertLM, whole: dict[str, str]) -> None:
    """All ranks' experts into the single process."""
    own = {whole[name]: param.detach() for name, param in engine.module.named_parameters()}
    everyone: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    with torch.no_grad():
        for name, param in twin.named_parameters():
            holder = next(weights for weights in everyone if name in weights)
            param.copy_(holder[name])


def each_expert_gets_one_oracle_call() -> None:
    """Together over the ranks that hold it, and none over the others."""
    for ep_size in (1, 2):
        for stage in (1, 2):
            case = Case("PolarGrad", ep_size, stage)
            engine = start(case)
            optimizer = engine.basic_optimizer
            rule, count = optimizer._matrix_rule, torch.zeros(1)

            def counting(
                batch: Tensor, across: RowShards, group: Any, rule: Any = rule, count: Any = count
            ) -> tuple[Tensor, Tensor]:
                count.add_(batch.shape[0])
                return rule(batch, across, group)

            optimizer._matrix_rule = counting
            train(engine, case, range(1))
            dist.all_reduce(count)
            assert count.item() == len(matrices(case.experts)), (ep_size, stage, count)


def exchanges_stay_among_the_ranks_that_share_a_matrix() -> None:
    """Experts in their expert-data-parallel group, the dense layer among all ranks."""
    case = Case("PolarGrad", 2, 2)
    engine = start(case)
    exchanges = engine.basic_optimizer.matrix_map.exchanges.values()
    experts = groups._get_expert_data_parallel_group("ep_size_2")
    for exchange in exchanges:
        names = {matrix.name for matrix in exchange.plan.layout.matrices}
        sizes = dist.get_world_size(exchange.process_group)
        if any(name.startswith(STACK) for name in names):
            assert exchange.process_group is experts and sizes == dist.get_world_size() // 2
            assert len(exchange.plan.cut) == (1 if sizes == 2 else 0)
        else:
            assert names == {"dense.weight"} and sizes == dist.get_world_size()
    assert len(exchanges) == 2


def resume_is_bit_equal() -> None:
    """Save, build anew from other weights, load, go on; every rank its own experts."""
    more = [
        *(Case("PolarGrad", 1, stage) for stage in (0, 2)),
        Case("SWAN", 2, 2, "bf16"),
        Case("AdamPower", 2, 1),
    ]
    on_all = [Case("PolarGrad", 2, stage) for stage in (0, 1, 2)]
    for case in on_all if dist.get_world_size() > 2 else [*on_all, *more]:
        unbroken = start(case)
        train(unbroken, case, range(2))
        folder = shared_folder()
        unbroken.save_checkpoint(folder, tag="half")
        train(unbroken, case, range(2, 4))
        resumed = start(replace(case))
        with torch.no_grad():
            for param in resumed.module.parameters():
                param.add_(1.0)
        resumed.load_checkpoint(folder)
        train(resumed, case, range(2, 4))
        for (name, a), (_, b) in zip(
            unbroken.module.named_parameters(), resumed.module.named_parameters(), strict=True
        ):
            assert torch.equal(a, b), f"{case}: {name} differs"
    other = start(replace(on_all[-1], ep_size=1))
    with pytest.raises(ValueError):
        other.load_checkpoint(folder)
    target = Path(folder, f"universal{dist.get_rank()}")
    with pytest.raises(ValueError, match="DeepSpeed MoE"):
        convert(Path(folder, "half"), target)


def shared_folder() -> str:
    """Rank 0's new folder, on every rank."""
    names = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(names)
    return names[0]


def what_is_not_held_against_the_reference_is_refused() -> None:
    """By name, before DeepSpeed's own assertion."""
    for case, message in (
        (Case("SWAN", 2, 3), "DeepSpeed MoE layers at ZeRO stage 3"),
        (Case("PolarGrad", 2, 2, extra={"checkpoint": {"load_universal": True}}), "load_universal"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            start(case)


TESTS: tuple[Callable[[], None], ...] = (
    steps_equal_the_reference,
    each_expert_gets_one_oracle_call,
    exchanges_stay_among_the_ranks_that_share_a_matrix,
    resume_is_bit_equal,
    what_is_not_held_against_the_reference_is_refused,
)


def main() -> None:
    """Run every test. A failure ends this process, and by that the others, which wait for it."""
    torch.set_num_threads(1)
    get_accelerator().is_fp16_supported = lambda: True  # emulated, see exactness_worker
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    for test in TESTS:
        test()
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps({"passed": [test.__name__ for test in TESTS]}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    end_process()
