"""One rank of a measurement, run by torchrun: ``worker SETTINGS RESULTS``."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

import gradopt_ds  # noqa: F401  makes SWAN, PolarGrad, … known to DeepSpeed's JSON
from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.host_memory import watch_residence
from gradopt_ds.experiments.common.launcher_watch import end_with_launcher
from gradopt_ds.experiments.common.process_end import end_process
from gradopt_ds.experiments.common.processes import print_on_rank_0, start_processes
from gradopt_ds.experiments.memory_report.settings import MeasureSettings
from gradopt_ds.memory.live import existing_tensors
from gradopt_ds.memory.moments import Moments, peak_bytes, reset_peak, resident_bytes


def main() -> None:
    """Measure the one optimizer of the settings; rank 0 writes the results of all ranks."""
    settings = MeasureSettings.model_validate_json(Path(sys.argv[1]).read_text())
    start_processes()
    watch_residence(settings.processes)
    own = run(settings)
    results: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(results, own)
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def run(settings: MeasureSettings) -> dict[str, Any]:
    """Build the engine and take steps. Collective.

    Returns:
        ``moments`` as of :class:`gradopt_ds.memory.moments.Moments`; bytes ``imported``, that the
        process held before there was a model; ``building`` and ``training``, the peaks less that;
        ``seconds`` of each step.
    """
    ((_, block),) = settings.blocks.items()
    setup = settings.setup
    device = torch.device(get_accelerator().current_device_name())
    before, imported = existing_tensors(), resident_bytes() if device.type == "cpu" else 0
    reset_peak(device)
    shape = models.model_config(settings.model, None, setup.sequence_length)
    model = models.build(shape, seed=0, dtype=setup.dtypes.weights, device=device)
    if setup.checkpointing:
        model.gradient_checkpointing_enable()
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=setup.engine_config(block)
    )
    del model
    building = peak_bytes(device)
    print_on_rank_0("engine built")
    reset_peak(device)
    moments, seconds = Moments(engine, before), []
    for step in range(settings.steps):
        started = time.perf_counter()
        for _ in range(setup.accumulation):
            shape_ = (setup.micro_batch, setup.sequence_length)
            tokens = torch.randint(shape.vocab_size, shape_, device=device)
            loss = engine(input_ids=tokens, labels=tokens).loss
            engine.backward(loss)
            moments.take("backward")
            engine.step()
        seconds.append(time.perf_counter() - started)
        print_on_rank_0(
            f"step {step + 1} of {settings.steps}: {seconds[-1]:.1f} s, loss {loss.item():.3f}"
        )
    moments.take("rest")
    return {
        "moments": moments.taken,
        "imported": imported,
        "building": building - imported,
        "training": peak_bytes(device) - imported,
        "seconds": seconds,
    }


if __name__ == "__main__":
    end_with_launcher()
    logging.getLogger("gradopt_ds").setLevel(logging.WARNING)
    main()
    end_process()
