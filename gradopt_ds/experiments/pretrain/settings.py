"""The settings of one pre-training run, validated and frozen before anything is started."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.experiments.pretrain.data.files import data_digest, digest

# Where a run is kept and how it is watched; changing these does not change what is learned.
_HOUSEKEEPING = {
    "output", "save_every", "save_minutes", "stop_seconds", "keep", "resume", "accept_changes",
    "tensorboard", "cache",
}  # fmt: skip


class RunSettings(BaseModel):
    """One run. Each field is also a flag of ``scripts/pretrain.py``, described by its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deepspeed_config: Path = Field(
        description="DeepSpeed JSON: optimizer, ZeRO stage, precision, batch sizes"
    )
    model: Path = Field(description="model JSON with a `model_type`, e.g. configs/models/tiny.json")
    data: str = Field(
        "shakespeare",
        min_length=1,
        description="'shakespeare' (in the package), 'c4' or 'openwebtext' (streamed from the "
        "hub), or a local directory, file or glob of .txt, .json, .jsonl (also .gz) or .parquet",
    )
    text_column: str = Field("text", description="column of JSON or parquet rows holding the text")
    validation_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of the documents held out where the data has no validation split; "
        "a document's own hash decides, so the choice never moves",
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="path or hub name of a tokenizer; by default a byte-level BPE is trained on "
        "the run's own training text and cached",
    )
    vocab_size: int = Field(4096, ge=257, description="tokens of the trained BPE")
    sequence_length: int = Field(128, ge=2, description="tokens per packed sequence")
    shuffle_buffer: int = Field(
        1024, ge=1, description="sequences per rank to draw the next one from; 1 keeps the order"
    )

    checkpointing: Literal["none", "transformers", "deepspeed"] = Field(
        "none",
        description="recompute every layer in the backward pass, with torch's function as "
        "transformers does, or with DeepSpeed's",
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = Field(
        None, description="implementation of attention (default: the model's own choice)"
    )
    compile: bool = Field(False, description="compile the model by torch.compile")

    steps: int = Field(300, ge=1, description="optimizer steps")
    train_batch: int | None = Field(
        None, ge=1, description="sequences per optimizer step over all ranks; overrides the JSON"
    )
    micro_batch: int | None = Field(
        None, ge=1, description="sequences per rank and forward pass; overrides the JSON"
    )
    accumulation: int | None = Field(
        None, ge=1, description="forward passes per optimizer step; overrides the JSON"
    )
    override: tuple[str, ...] = Field(
        (),
        description="KEY=VALUE set in the DeepSpeed JSON, dots for nesting, value as JSON: "
        "--override optimizer.params.lr=0.01 (may be repeated)",
    )
    schedule: Literal["cosine", "wsd", "constant"] = Field(
        "cosine",
        description="after a linear warm-up: cosine to lr/10; constant to 2/3 of the steps, then "
        "linear to lr/10; or constant",
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="steps of linear warm-up (default: a tenth of the steps)"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the initial weights and of the data order")

    output: Path = Field(Path("runs/pretrain"), description="directory of this run's results")
    validate_every: int | None = Field(
        None, ge=1, description="steps between validations (default: a tenth of the steps)"
    )
    validation_sequences: int = Field(
        128, ge=1, description="packed validation sequences, the same ones every time"
    )
    save_every: int = Field(
        0,
        ge=0,
        description="steps between checkpoints; 0 saves none, unless a signal stops the run",
    )
    save_minutes: float | None = Field(
        None, gt=0, description="minutes after which a checkpoint is due that no step has brought"
    )
    stop_seconds: float = Field(
        120.0,
        gt=0,
        description="seconds to finish a step and save after SIGTERM, SIGUSR1 or the launcher's "
        "end; then the run leaves without",
    )
    keep: int = Field(2, ge=1, description="checkpoints kept")
    resume: Literal["auto", "never", "must"] = Field(
        "auto",
        description="go on from the output's last complete checkpoint, if there is one (auto) or "
        "else stop (must); never starts afresh and removes the output's checkpoints",
    )
    accept_changes: bool = Field(
        False,
        description="go on from a checkpoint although settings that bend its trace have changed; "
        "what the checkpoint holds (the optimizer's rates, the schedule's base) stays, and the "
        "summary tells the changes",
    )
    tensorboard: bool = Field(True, description="TensorBoard events through DeepSpeed's monitor")
    cache: Path = Field(
        Path("~/.cache/gradopt_ds"), description="directory of the trained tokenizers"
    )

    @model_validator(mode="after")
    def _check(self) -> "RunSettings":
        for path in (self.deepspeed_config, self.model):
            if not path.is_file():
                raise ValueError(f"{path} is not a file; configs/ holds examples to copy")
        if self.warmup > self.steps:
            raise ValueError(f"warmup_steps={self.warmup} exceeds steps={self.steps}; lower it")
        for item in self.override:
            if "=" not in item:
                raise ValueError(f"override {item!r} has no '=': write KEY=VALUE")
        return self

    @property
    def warmup(self) -> int:
        """Steps of warm-up."""
        return self.steps // 10 if self.warmup_steps is None else self.warmup_steps

    @property
    def validation_interval(self) -> int:
        """Steps between two validations."""
        return self.validate_every or max(1, self.steps // 10)

    def fingerprint(self, ranks: int) -> str:
        """Hash all that decides the result: settings, ranks, contents of the files named.

        Raises:
            PretrainError: a file cannot be read.
        """
        defining: dict[str, Any] = self.model_dump(mode="json", exclude=_HOUSEKEEPING)
        defining["deepspeed_config"] = load(self.deepspeed_config)
        defining["model"] = load(self.model)
        defining["data"] = data_digest(self.data)
        if self.tokenizer is not None and Path(self.tokenizer).is_dir():
            files = [path for path in Path(self.tokenizer).iterdir() if path.is_file()]
            defining["tokenizer"] = digest(sorted(map(str, files)))
        defining["ranks"] = ranks
        return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:16]
