"""Everything a training loop needs, put together from the settings."""

import contextlib
import hashlib
import io
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.comm as dist
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from deepspeed.utils.logging import set_log_level_from_string

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.shared_memory import require_shared_memory
from gradopt_ds.experiments.pretrain import checkpoint, deepspeed_json, schedule
from gradopt_ds.experiments.pretrain.data import tokenizer, validation
from gradopt_ds.experiments.pretrain.data.documents import TrainingDocuments
from gradopt_ds.experiments.pretrain.data.packing import PackedSequences
from gradopt_ds.experiments.pretrain.settings import RunSettings

MPI_SIZES = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}
"""What Open MPI's and MPICH's launchers set. Without it DeepSpeed must not look for MPI: it would
need mpi4py for a single process."""
ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",  # any free one
}
"""What a launcher would have set for a single process."""


@dataclass
class Run:
    """One rank's part of a run that can start or go on."""

    settings: RunSettings
    engine: DeepSpeedEngine
    training: PackedSequences
    validation: torch.Tensor  # [n, sequence_length]
    order: dict[str, Any]  # what decides the order of the data
    step: int = 0  # optimizer steps done
    elapsed: float = 0.0  # seconds of training so far

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.settings.output / "checkpoints"

    def save(self) -> None:
        """Saves a checkpoint of this moment. Collective."""
        state = {
            "training": self.training.state_dict(),
            "order": self.order,
            "elapsed": self.elapsed,
        }
        checkpoint.save(self.engine, self.checkpoints, self.step, state)
        if dist.get_rank() == 0:
            checkpoint.prune(self.checkpoints, self.step, self.settings.keep)

    def resume(self, step: int) -> None:
        """Goes on after ``step`` steps. Collective.

        Raises:
            PretrainError: the checkpoint was made on another order of data.
        """
        state = checkpoint.load(self.engine, self.checkpoints, step)
        changed = [
            f"{name} was {state['order'][name]!r} and is {value!r}"
            for name, value in self.order.items()
            if state["order"][name] != value
        ]
        if changed:
            raise PretrainError(
                f"cannot go on from {self.checkpoints}: {'; '.join(changed)}. Set it back, start "
                "afresh with --resume never, or use another --output"
            )
        self.training.load_state_dict(state["training"])
        self.step, self.elapsed = step, state["elapsed"]


def start_processes() -> None:
    """Joins the ranks of DeepSpeed's launcher or of mpirun; one process alone is one rank."""
    set_log_level_from_string("warning")
    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed; nothing for our user to do.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    by_mpi = bool(MPI_SIZES & os.environ.keys())
    if not by_mpi and "RANK" not in os.environ:
        os.environ.update(ALONE)
    ranks = os.environ.get("WORLD_SIZE")
    if ranks and ranks == os.environ.get("LOCAL_SIZE") and get_accelerator().device_name() == "cpu":
        # Before the ranks join: they all see the same, and none is left waiting.
        require_shared_memory(int(ranks))
    # DeepSpeed prints on every rank that it built its CPU communication.
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(auto_mpi_discovery=by_mpi)


def assemble(settings: RunSettings) -> Run:
    """Tokenizer, data, model and engine of this rank, resumed if asked. Collective.

    Raises:
        PretrainError: something in the settings does not fit; the message says what.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    config = deepspeed_json.read(settings, ranks)
    words = tokenizer.load(settings)
    encode = tokenizer.Encoder(words)
    vocabulary = tokenizer.vocabulary(words)
    shape = models.model_config(settings.model, vocabulary, settings.sequence_length)
    training = PackedSequences(
        TrainingDocuments(settings, rank, ranks),
        encode,
        encode.end,
        settings.sequence_length,
        settings.shuffle_buffer,
        seed=settings.seed,
    )
    model = models.build(shape, settings.seed)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config=config,
        lr_scheduler=schedule.scheduler(settings.schedule, settings.steps, settings.warmup),
    )
    run = Run(
        settings,
        engine,
        training,
        validation.sequences(settings, encode, rank, ranks),
        _order(settings, ranks, words.get_vocab()),
    )
    _resume_if_asked(run)
    if rank == 0:
        words.save_pretrained(settings.output / "tokenizer")
    return run


def _order(settings: RunSettings, ranks: int, vocabulary: dict[str, int]) -> dict[str, Any]:
    fields = {"data", "text_column", "validation_share", "sequence_length", "shuffle_buffer"}
    words = repr(sorted(vocabulary.items())).encode()
    return {
        **settings.model_dump(include=fields | {"seed"}),
        "ranks": ranks,
        "tokenizer": hashlib.sha256(words).hexdigest()[:16],
    }


def _resume_if_asked(run: Run) -> None:
    settings = run.settings
    step = checkpoint.latest_step(run.checkpoints)
    if settings.resume == "never":
        # The trace starts anew, so a later --resume auto must not find the old run's checkpoints.
        if dist.get_rank() == 0:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        return
    if step is None:
        if settings.resume == "must":
            raise PretrainError(
                f"--resume must, but {run.checkpoints} holds no complete checkpoint: check "
                "--output, or use --resume auto"
            )
        return
    started = time.perf_counter()
    run.resume(step)
    if dist.get_rank() == 0:
        seconds = time.perf_counter() - started
        print(f"resumed after step {step} from {run.checkpoints} in {seconds:.1f} s", flush=True)
