"""Measure one optimizer: build its engine, warm up, time steps, count what one step does."""

import gc
from dataclasses import asdict, dataclass, field
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch.utils._pytree import tree_leaves

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.step_benchmark.collectives import CollectiveCounter
from gradopt_ds.experiments.step_benchmark.operations import operations
from gradopt_ds.experiments.step_benchmark.optimizers import Candidate
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings
from gradopt_ds.experiments.step_benchmark.stopwatch import Stopwatch
from gradopt_ds.integration.zero.attributes import BUCKETS, MUON_METHODS
from gradopt_ds.memory import optimizer_state_bytes
from gradopt_ds.memory.allocations import PeakBytes
from gradopt_ds.memory.moments import peak_bytes, reset_peak
from gradopt_ds.optim import GradPower, MatrixOptimizer, base_of
from gradopt_ds.sharding import ShardedMatrixMap


@dataclass(frozen=True)
class Counts:
    """What one step of one rank does.

    Attributes:
        calls: collectives from backward to the end of the step, by kind.
        sent: bytes they send, by kind.
        planned_sent: bytes that the plan of the exchange says it sends; 0 without an exchange.
        state: bytes of optimizer state.
        peak: most bytes that the optimizer has allocated and holds at a time, beside its state.
        flops: oracle FLOPs by the plan's count; 0 for optimizers that have no plan.
        operations: of a whole step, forward pass included, see :mod:`.operations`.
        allocated: most bytes that a CUDA device had allocated in a timed step, forward pass
            included; None elsewhere.
    """

    calls: dict[str, int]
    sent: dict[str, float]
    planned_sent: int
    state: int
    peak: int
    flops: int
    operations: int
    allocated: int | None


@dataclass(frozen=True)
class Measurement:
    """One entry per timed step.

    Attributes:
        backward: milliseconds of ``engine.backward`` on the slowest rank.
        total: milliseconds of ``engine.backward`` and ``engine.step`` on the slowest rank.
        host: milliseconds that the CPU of rank 0 was busy with the two.
        losses: rank 0's; equal wherever weights and batch are.
        counts: of every rank, from a step that is not timed.
    """

    backward: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)


def measure(candidate: Candidate, settings: BenchSettings, count: bool) -> Measurement:
    """Measure an optimizer. Collective.

    Args:
        candidate: what to build.
        settings: of the benchmark.
        count: whether to count in one more step.
    """
    engine = _build(candidate, settings)
    tokens = _tokens(engine.module.config.vocab_size, settings.tokens, engine.device)
    measured = Measurement()
    _step(engine, tokens)
    reset_peak(engine.device)
    for _ in range(settings.steps):
        loss, (backward, total), host = _step(engine, tokens)
        measured.backward.append(backward)
        measured.total.append(total)
        measured.host.append(host)
        measured.losses.append(loss)
    allocated = peak_bytes(engine.device) if engine.device.type == "cuda" else None
    if count:
        launched = operations(lambda: _step(engine, tokens), engine.device)
        counts = _counted(engine, tokens, settings.stage, launched, allocated)
        measured.counts.extend(_gathered(counts))
    _release(engine)
    return measured


def _build(candidate: Candidate, settings: BenchSettings) -> Any:
    config = models.model_config(settings.model, None, settings.tokens)
    model = models.build(config, seed=0, device=get_accelerator().current_device_name())
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config=candidate.config(settings.stage, settings.precision),
    )
    return engine


def _tokens(vocabulary: int, length: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dist.get_rank())
    return torch.randint(vocabulary, (1, length), generator=generator).to(device)


def _step(engine: Any, tokens: torch.Tensor) -> tuple[float, list[float], float]:
    loss = engine(input_ids=tokens, labels=tokens).loss
    watch = Stopwatch(engine.device)
    engine.backward(loss)
    watch.mark()
    engine.step()
    watch.mark()
    return loss.item(), watch.milliseconds(), watch.host_milliseconds()


def _counted(
    engine: Any, tokens: torch.Tensor, stage: int, launched: int, allocated: int | None
) -> Counts:
    optimizer = engine.basic_optimizer
    peak = PeakBytes(engine.device)
    peak.during(optimizer, "step")
    work = MUON_METHODS[stage == 3]
    if not isinstance(optimizer, MatrixOptimizer | GradPower) and hasattr(engine.optimizer, work):
        peak.during(engine.optimizer, work)
    loss = engine(input_ids=tokens, labels=tokens).loss
    with CollectiveCounter() as counter:
        engine.backward(loss)
        engine.step()
    base = base_of(optimizer)
    matrix_map = getattr(base, "matrix_map", None)
    exchanges = matrix_map.exchanges if isinstance(matrix_map, ShardedMatrixMap) else {}
    return Counts(
        calls=dict(counter.calls),
        sent=counter.sent,
        planned_sent=sum(
            exchange.plan.bytes_sent(exchange.rank, exchange.wire_dtype.itemsize, slice_.itemsize)
            for slice_, exchange in exchanges.items()
        ),
        state=optimizer_state_bytes(optimizer),
        peak=peak.most,
        flops=sum(exchange.plan.flops[exchange.rank] for exchange in exchanges.values()),
        operations=launched,
        allocated=allocated,
    )


def _release(engine: Any) -> None:
    """Free the engine's memory for the next one. This one must not be used again.

    At stage 3 deleting the engine does not free it: autograd's hooks hold references that Python's
    garbage collector cannot see. So the tensors' storages are emptied.
    """
    optimizer, parameters = engine.optimizer, list(engine.module.parameters())
    engine.destroy()
    held = [
        vars(optimizer),
        *map(vars, getattr(optimizer, BUCKETS, {}).values()),
        *map(vars, parameters),
        *engine.basic_optimizer.state.values(),
        parameters,
    ]
    for tensor in tree_leaves(held):
        if isinstance(tensor, torch.Tensor):
            tensor.untyped_storage().resize_(0)
    gc.collect()
    get_accelerator().empty_cache()


def _gathered(counts: Counts) -> list[dict[str, Any]]:
    of_all: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, asdict(counts))
    return of_all
