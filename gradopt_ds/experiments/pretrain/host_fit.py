"""A model that cannot fit the host is refused before it is built.

Without this check the system kills a rank, without a word: exit status 137.
"""

import os
from collections.abc import Mapping
from typing import Any

import deepspeed.comm as dist
from deepspeed.accelerator import get_accelerator
from transformers import PretrainedConfig

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.host_memory import SHARE, available_bytes
from gradopt_ds.experiments.common.models import on_meta, parameter_count
from gradopt_ds.memory.deepspeed_json import read_setup
from gradopt_ds.memory.estimate import estimate
from gradopt_ds.memory.setup import Setup

_LOCAL_RANKS = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""Where DeepSpeed's, torch's, Open MPI's and MPICH's launchers say how many ranks a host has."""


def refuse_what_cannot_fit(
    shape: PretrainedConfig, config: Mapping[str, Any], sequence_length: int
) -> None:
    """Compare what the host's ranks need with what the host has, on one of them. Collective.

    Raises:
        PretrainError: they need more.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        local = int(next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), 1))
        needed = local * host_bytes(shape, config, sequence_length, dist.get_world_size())
        there = int(SHARE * available_bytes())
        if needed > there:
            raise PretrainError(
                f"a model of {parameter_count(shape) / 1e6:,.0f}M parameters needs about "
                f"{needed / 2**30:.1f} GiB of this host's memory for {local} rank(s), and "
                f"{there / 2**30:.1f} GiB can be had: take a smaller --model, a smaller micro "
                "batch, or more hosts (scripts/memory.py estimates a setup without running it)"
            )
    dist.barrier()  # no rank builds its model before


def host_bytes(
    shape: PretrainedConfig, config: Mapping[str, Any], sequence_length: int, ranks: int
) -> int:
    """Count the bytes of the host's memory that one rank needs at some time.

    At least the model in float32, as it is built; where the host is what trains, all of the memory
    estimate, if it knows model, optimizer and JSON.
    """
    built = 4 * parameter_count(shape)
    try:
        setup = Setup(**read_setup(config, ranks), sequence_length=sequence_length)
        trained = estimate(on_meta(shape), config["optimizer"], setup)
    except (ValueError, TypeError):  # not known to the estimate
        return built
    on_host = trained.total if get_accelerator().device_name() == "cpu" else trained.host
    return max(built, on_host)
