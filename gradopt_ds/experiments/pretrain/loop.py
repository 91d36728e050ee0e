"""The training loop: DeepSpeed's three calls, with a trace, validation and checkpoints."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import numpy as np
import torch

from gradopt_ds.experiments.common.errors import DivergedError, StoppedError
from gradopt_ds.experiments.common.models import active_parameter_count
from gradopt_ds.experiments.common.output_lock import lock
from gradopt_ds.experiments.common.processes import start_processes
from gradopt_ds.experiments.common.provenance import provenance
from gradopt_ds.experiments.common.stopping import StopRequest
from gradopt_ds.experiments.pretrain import memory_log, summary
from gradopt_ds.experiments.pretrain.data import validation
from gradopt_ds.experiments.pretrain.metrics import COLUMNS, MetricsLog, Row, read
from gradopt_ds.experiments.pretrain.progress import Progress
from gradopt_ds.experiments.pretrain.routing import ExpertLoad, language_loss
from gradopt_ds.experiments.pretrain.run import Run, assemble
from gradopt_ds.experiments.pretrain.saving import Saving
from gradopt_ds.experiments.pretrain.settings import RunSettings
from gradopt_ds.experiments.pretrain.throughput import Stopwatch, learning_rates
from gradopt_ds.experiments.pretrain.trained import trained_params
from gradopt_ds.memory import optimizer_state_bytes, optimizer_state_bytes_by_key
from gradopt_ds.optim.facts import whole_shape


def pretrain(settings: RunSettings, stop: StopRequest) -> dict[str, Any] | None:
    """Train a model and write its results to ``settings.output``.

    Every rank calls it, each in its own process.

    Args:
        settings: of the run.
        stop: of this process; one rank that is asked to stop stops all.

    Returns:
        What ``summary.json`` holds, on rank 0; None on the others.

    Raises:
        PretrainError: the run cannot start, or (DivergedError) its loss is no longer finite, or
            (StoppedError) it was asked to stop and has saved.
    """
    began = time.perf_counter()
    start_processes()
    first = dist.get_rank() == 0
    # Open, and so locked, until the process ends.
    held = lock(settings.output) if first else None  # noqa: F841
    dist.barrier()  # the others touch nothing before
    run = assemble(settings)
    log = MetricsLog(settings.output, run.step) if first else None
    if first:
        (settings.output / summary.FILE).unlink(missing_ok=True)
        print(_opening(run), flush=True)
    startup = time.perf_counter() - began
    with stop.finishing(settings.stop_seconds):
        stopped = _train(run, log, Saving(run, stop))
        facts = None if stopped else _facts(run, startup)
        if first and facts is not None:
            summary.write(settings.output, facts)
            print(_closing(facts, settings.output), flush=True)
        elif first:
            print(_stopped(run, stop.reason or "a signal to another rank"), flush=True)
        dist.barrier()
    run.engine.destroy()
    dist.destroy_process_group()
    if stopped:
        raise StoppedError(f"stopped after step {run.step}")
    return facts if first else None


def _train(run: Run, log: MetricsLog | None, saving: Saving) -> bool:
    """Take the steps that are left; return whether the run was asked to stop before the last."""
    steps, resumed_at = run.settings.steps, run.step
    watch = Stopwatch(run.engine, run.settings.sequence_length)
    with Progress(steps, run.step, log is not None) as progress, contextlib.ExitStack() as stack:
        if log is not None:
            stack.callback(log.close)
        while run.step < steps:
            row = train_step(run, watch)
            if run.step == resumed_at + 1:
                memory_log.log_held(run)
            _validate_if_due(run, row)
            if log is not None:
                log.add(row)
                _write_events(run, row)
            progress.show(row)
            if saving.save_if_due():
                return True
    return False


def train_step(run: Run, watch: Stopwatch) -> Row:
    """Take one optimizer step over all its micro batches; return its row. Collective.

    Raises:
        DivergedError: the loss is infinite or not a number.
    """
    engine = run.engine
    accumulation, micro = (
        engine.gradient_accumulation_steps(),
        engine.train_micro_batch_size_per_gpu(),
    )
    started = time.perf_counter()
    lr, rates = engine.get_lr()[0], learning_rates(engine)
    total = torch.zeros((), device=engine.device)
    config = engine.module.config
    load = ExpertLoad(config)
    for _ in range(accumulation):
        with watch.waiting_for_data():
            sequences = np.stack([next(run.training) for _ in range(micro)])
        batch = torch.from_numpy(sequences).long().to(engine.device)
        outputs = engine(input_ids=batch, labels=batch)
        engine.backward(outputs.loss)
        total += language_loss(outputs, config) / accumulation
        load.add(outputs)
        del outputs
        engine.step()
    dist.all_reduce(total)
    run.step += 1
    run.tokens += engine.train_batch_size() * run.settings.sequence_length
    mean = float(total) / dist.get_world_size()
    routed = load.row()
    seconds = time.perf_counter() - started
    run.elapsed += seconds
    if not math.isfinite(mean):
        raise DivergedError(
            f"the loss is {mean} at step {run.step} (learning rate {lr:.3g}): lower the learning "
            "rate, lengthen --warmup-steps, or set gradient_clipping in the DeepSpeed JSON"
        )
    norm = engine.get_global_grad_norm()
    return {
        "step": run.step,
        "tokens": run.tokens,
        "loss": mean,
        "lr": lr,
        "grad_norm": None if norm is None else float(norm),
        "step_seconds": seconds,
        "elapsed_seconds": run.elapsed,
        "perplexity": math.exp(min(mean, 700.0)),  # more is no float
        **watch.row(seconds, dist.get_world_size()),
        **routed,
        "learning_rates": rates,
    }


def _validate_if_due(run: Run, row: Row) -> None:
    if run.step % run.settings.validation_interval == 0 or run.step == run.settings.steps:
        row["validation_loss"] = validation.loss(
            run.engine, run.validation, run.engine.train_micro_batch_size_per_gpu()
        )


def _write_events(run: Run, row: Row) -> None:
    if run.engine.monitor.enabled:
        names = [name for name in COLUMNS if name not in ("step", "tokens", "elapsed_seconds")]
        events = [
            (f"pretrain/{name}", row[name], run.step) for name in names if row.get(name) is not None
        ]
        events += [
            (f"pretrain/lr/{name}", rate, run.step) for name, rate in row["learning_rates"].items()
        ]
        run.engine.monitor.write_events(events)


def _facts(run: Run, startup: float) -> dict[str, Any]:
    """Collect the summary. Collective, because every rank counts its own bytes."""
    settings, engine = run.settings, run.engine
    ranks = dist.get_world_size()
    optimizer = engine.basic_optimizer
    held: list[int | None] = [None] * ranks
    dist.all_gather_object(held, optimizer_state_bytes(optimizer))
    peaks = memory_log.log_peak(run)
    if dist.get_rank() != 0:
        return {}
    rows = read(settings.output / "metrics.jsonl")
    validated = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {
        "optimizer": engine.optimizer_name(),
        "optimizer_params": trained_params(engine),
        "zero_stage": engine.zero_optimization_stage(),
        "ranks": ranks,
        "parameters": sum(math.prod(whole_shape(param)) for param in engine.module.parameters()),
        "active_parameters": active_parameter_count(engine.module),
        "steps": run.step,
        "tokens": run.tokens,
        "changes": run.history,
        "final_loss": rows[-1]["loss"],
        "final_validation_loss": validated[-1],
        "best_validation_loss": min(validated),
        "optimizer_state_bytes_per_rank": held,
        "peak_bytes_per_rank": peaks,
        "optimizer_state_bytes_by_key": optimizer_state_bytes_by_key(optimizer),
        "seconds_per_step": summary.typical_seconds([row["step_seconds"] for row in rows]),
        "training_seconds": run.elapsed,
        "startup_seconds": startup,
        # A run that went on with other settings is not the result of any settings.
        "fingerprint": None if run.history else run.fingerprint,
        "settings": settings.model_dump(mode="json"),
        **provenance(),
    }


def _opening(run: Run) -> str:
    engine = run.engine
    parameters = sum(math.prod(whole_shape(param)) for param in engine.module.parameters())
    active = active_parameter_count(engine.module)
    return (
        f"{engine.optimizer_name()}, ZeRO stage {engine.zero_optimization_stage()}, "
        f"{dist.get_world_size()} rank(s), {parameters / 1e6:.2f}M parameters"
        f"{'' if active == parameters else f', {active / 1e6:.2f}M of them active'}; a step is "
        f"{engine.train_batch_size()} x {run.settings.sequence_length} tokens "
        f"({engine.train_micro_batch_size_per_gpu()} a rank and pass); "
        f"results in {run.settings.output}"
    )


def _closing(facts: dict[str, Any], output: Path) -> str:
    return (
        f"validation loss {facts['final_validation_loss']:.4f} after {facts['steps']} steps, "
        f"{facts['seconds_per_step']:.3f} s/step, optimizer state "
        f"{max(facts['optimizer_state_bytes_per_rank']) / 2**20:.2f} MiB a rank; "
        f"{output / summary.FILE}"
    )


def _stopped(run: Run, reason: str) -> str:
    return (
        f"stopped by {reason} after step {run.step}/{run.settings.steps}, which is saved; the same "
        "command goes on from there"
    )
