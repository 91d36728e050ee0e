"""Starting pre-training runs on two ranks, and reading what they leave."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradopt_ds.experiments.pretrain.metrics import read
from tests.conftest import ROOT
from tests.distributed.launch import free_port

DEEPSPEED = ROOT / "configs/deepspeed"
STEPS, SAVE_EVERY = 24, 5
MODEL = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def settings(shared: Path) -> list[str]:
    return [
        *("--model", str(shared / "model.json"), "--cache", str(shared / "cache")),
        *("--vocab-size", "512", "--sequence-length", "32", "--shuffle-buffer", "16"),
        *("--steps", str(STEPS), "--validate-every", "12", "--validation-sequences", "17"),
    ]


PORTS: list[int] = []
"""Of the launches so far."""


def start(
    shared: Path, output: Path, config_name: str = "zero2_swan", more: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    config = DEEPSPEED / f"{config_name}.json"
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2"]
    PORTS.append(free_port())
    return subprocess.Popen(
        [
            *launcher,
            *("--master_port", str(PORTS[-1]), "--log_level", "error"),
            str(ROOT / "scripts/pretrain.py"),
            *("--deepspeed_config", str(config), "--output", str(output)),
            *("--save-every", str(SAVE_EVERY), *settings(shared), *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=leave_sigusr1_to_the_ranks,
    )


def leave_sigusr1_to_the_ranks() -> None:
    """As a batch script does with ``trap '' USR1``: DeepSpeed's launcher would end by it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def trace(output: Path) -> list[list[Any]]:
    keys = ("step", "tokens", "loss", "lr", "grad_norm", "validation_loss")
    return [[row.get(key) for key in keys] for row in read(output / "metrics.jsonl")]
