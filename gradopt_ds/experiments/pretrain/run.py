"""Everything a training loop needs, put together from the settings."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.comm as dist
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.config import DeepSpeedConfigError
from transformers import PretrainedConfig

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.common.errors import PretrainError, reason
from gradopt_ds.experiments.pretrain import checkpoint, deepspeed_json, schedule
from gradopt_ds.experiments.pretrain.computation import compile_if_asked, set_checkpointing
from gradopt_ds.experiments.pretrain.data import validation
from gradopt_ds.experiments.pretrain.data.open import open_data
from gradopt_ds.experiments.pretrain.data.packing import PackedSequences
from gradopt_ds.experiments.pretrain.definition import Changes, Definition, changes, definition
from gradopt_ds.experiments.pretrain.host_fit import refuse_what_cannot_fit
from gradopt_ds.experiments.pretrain.json_values import refuse_unparsable
from gradopt_ds.experiments.pretrain.settings import RunSettings
from gradopt_ds.experiments.pretrain.trained import kept_from_checkpoint


@dataclass
class Run:
    """One rank's part of a run that can start or go on."""

    settings: RunSettings
    engine: DeepSpeedEngine
    training: PackedSequences
    validation: torch.Tensor  # [n, sequence_length]
    definition: Definition
    fingerprint: str  # of the settings, and of the files as they were when the run was started
    step: int = 0  # optimizer steps done
    tokens: int = 0  # trained on so far, over all ranks
    elapsed: float = 0.0  # seconds of training so far
    history: list[dict[str, Any]] = field(default_factory=list)  # accepted changes of its settings

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.settings.output / "checkpoints"

    def save(self) -> None:
        """Save a checkpoint of this moment. Collective."""
        state = {
            "training": self.training.state_dict(),
            "definition": dict(self.definition),
            "tokens": self.tokens,
            "elapsed": self.elapsed,
            "history": self.history,
        }
        checkpoint.save(self.engine, self.checkpoints, self.step, state)
        if dist.get_rank() == 0:
            checkpoint.prune(self.checkpoints, self.step, self.settings.keep)

    def resume(self, step: int) -> None:
        """Go on after ``step`` steps. Collective.

        Raises:
            PretrainError: the run is not the one that was saved, and may not or was not accepted
                to go on as another.
        """
        own = checkpoint.read(self.checkpoints, step)
        state = own["state"]
        changed = self._changes(state["definition"], step)
        checkpoint.load(self.engine, self.checkpoints, step, own["random"])
        self.training.load_state_dict(state["training"])
        self.step, self.elapsed, self.tokens = step, state["elapsed"], state["tokens"]
        self.history = state["history"]
        if bent := changed.trace + changed.past:
            self.history = [*self.history, {"after_step": step, "changed": bent}]
        if dist.get_rank() == 0:
            for sentence in changed.said + changed.trace:
                print(f"changed since step {step}: {sentence}", flush=True)
            for sentence in kept_from_checkpoint(self.engine):
                print(sentence, flush=True)

    def _changes(self, saved: Definition, step: int) -> Changes:
        changed = changes(saved, self.definition, step)
        where = f"cannot go on from {self.checkpoints}"
        if changed.fixed:
            raise PretrainError(
                f"{where}: {'; '.join(changed.fixed)}. Set it back, start afresh with --resume "
                "never, or use another --output"
            )
        if changed.trace and not self.settings.accept_changes:
            raise PretrainError(
                f"{where}: {'; '.join(changed.trace)}. Set it back, start afresh with --resume "
                "never or another --output, or go on with --accept-changes: then the checkpoint's "
                "optimizer rates stay, and summary.json tells what was changed when"
            )
        if step > self.settings.steps:
            raise PretrainError(
                f"{where}: it holds step {step}, past --steps {self.settings.steps}"
            )
        return changed


def assemble(settings: RunSettings) -> Run:
    """Open tokenizer, data, model and engine of this rank, resumed if asked. Collective.

    Raises:
        PretrainError: something in the settings does not fit; the message says what.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    config = deepspeed_json.read(settings, ranks)
    refuse_unparsable(config, settings.deepspeed_config)
    data = open_data(settings, rank, ranks)
    shape = models.model_config(
        settings.model, data.vocabulary, settings.sequence_length, settings.attention
    )
    refuse_what_cannot_fit(shape, config, settings.sequence_length)
    run = Run(
        settings,
        _engine(settings, config, shape),
        data.training,
        validation.sequences(settings, data.encode, rank, ranks),
        definition(settings, config, ranks, data.tokenizer.get_vocab()),
        settings.fingerprint(ranks) if rank == 0 else "",
    )
    _resume_if_asked(run)
    if rank == 0:
        data.tokenizer.save_pretrained(settings.output / "tokenizer")
    return run


def _engine(
    settings: RunSettings, config: dict[str, Any], shape: PretrainedConfig
) -> DeepSpeedEngine:
    model = models.build(shape, settings.seed)
    set_checkpointing(model, settings, config)
    try:
        engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=model.parameters(),
            config=config,
            lr_scheduler=schedule.scheduler(settings.schedule, settings.steps, settings.warmup),
        )
    except (
        ValueError, NotImplementedError, AssertionError, DeepSpeedConfigError, TypeError, NameError
    ) as error:  # fmt: skip
        # What DeepSpeed and this library refuse a JSON with; TypeError: its optimizers do, by a
        # key or type that their constructors do not know; NameError: for want of a package.
        raise PretrainError(f"{settings.deepspeed_config}: {reason(error)}") from error
    compile_if_asked(engine, settings)
    return engine


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
