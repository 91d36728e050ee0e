"""Experts go on, spread over another number of ranks: the same bits, and then the same steps."""

from dataclasses import dataclass
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import torch.distributed as dist

from gradopt_ds.integration.checkpoints.universal import convert
from tests.distributed import auto_ep_cases, expert_cases
from tests.distributed.auto_ep_model import as_one_process, build_stacked
from tests.distributed.expert_model import build_expert_model, global_name
from tests.distributed.harness import Job, distributed, folder
from tests.distributed.model import micro_batch
from tests.distributed.observe import masters
from tests.reference import Array

BATCHES = 4
"""Micro-batches a step, on however many ranks."""

MOE_LAYER, AUTO_EP = "MoE layer", "AutoEP"
EXPERTS = 6
"""Of DeepSpeed's MoE layer."""


@dataclass(frozen=True)
class Spread:
    """An engine whose experts are spread over so many of its ranks."""

    kind: str
    ranks: int
    ep_size: int
    stage: int

    @property
    def name(self) -> str:
        """For ``job_id``."""
        return f"{self.kind} ep_size{self.ep_size} stage{self.stage}"

    def start(self, **extra: Any) -> Any:
        """Build it."""
        if self.kind == AUTO_EP:
            model: Any = build_stacked()
            case: Any = auto_ep_cases.Case("PolarGrad", self.ep_size, self.stage)
        else:
            model = build_expert_model(EXPERTS, self.ep_size, dist.get_rank() % self.ep_size)
            case = expert_cases.Case("PolarGrad", self.ep_size, self.stage)
        accumulation = {"gradient_accumulation_steps": BATCHES // self.ranks}
        config = {**case.config(), **accumulation, **extra}
        return deepspeed.initialize(model=model, config=config)[0]

    def whole(self, engine: Any) -> dict[str, Array]:
        """The masters of all ranks, as one process would have them."""
        own = masters(engine)
        if self.kind == MOE_LAYER:
            assert EXPERTS // self.ep_size in (3, 6)  # as global_name counts
            own = {global_name(n, dist.get_rank() % self.ep_size): w for n, w in own.items()}
        parts: list[dict[str, Any]] = [{} for _ in range(self.ranks)]
        dist.all_gather_object(parts, own)
        if self.kind == AUTO_EP:
            return {n: w.numpy() for n, w in as_one_process(parts, self.ep_size).items()}
        return {name: weight for part in parts for name, weight in part.items()}


@dataclass(frozen=True)
class Move:
    """From one spread to another."""

    saved: Spread
    loaded: Spread

    @property
    def name(self) -> str:
        """For ``job_id``."""
        saved = self.saved
        return f"{self.loaded.name} from {saved.ranks} ranks ep_size{saved.ep_size} {saved.stage}"


def moves(kind: str, saved: tuple[int, int, int], *loaded: tuple[int, int, int]) -> list[Move]:
    """From one to each of the others: ranks, ep_size, stage."""
    return [Move(Spread(kind, *saved), Spread(kind, *each)) for each in loaded]


MOVES = [
    *moves(MOE_LAYER, (4, 2, 2), (2, 1, 1), (2, 2, 2), (4, 1, 2)),
    *moves(MOE_LAYER, (2, 1, 1), (4, 2, 2)),
    *moves(AUTO_EP, (4, 2, 3), (2, 2, 3), (2, 1, 2), (4, 4, 1)),
    *moves(AUTO_EP, (2, 1, 2), (4, 2, 3)),
]
BY_RANKS = {ranks: [move for move in MOVES if move.loaded.ranks == ranks] for ranks in (2, 4)}


def train(engine: Any, steps: range) -> None:
    """Steps on the same micro-batches, on however many ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for step in steps:
        for micro in range(BATCHES // ranks):
            engine.backward(engine(micro_batch(step, 0, rank + ranks * micro)))
            engine.step()


def save_and_convert(saved: Spread) -> None:
    """For other spreads; what they must find goes beside it."""
    path = folder("experts universal", f"{saved.ranks}", saved.name)
    engine = saved.start()
    train(engine, range(2))
    engine.save_checkpoint(str(path), tag="half")
    expected = {"half": saved.whole(engine)}
    train(engine, range(2, 4))
    expected["end"] = saved.whole(engine)
    if dist.get_rank() == 0:
        convert(path / "half", path / "universal")
        torch.save(expected, path / "expected.pt")
    dist.barrier()


def saving(move: Move) -> Job:
    """The job that saves what a move loads."""
    return Job(save_and_convert, move.saved.ranks, move.saved)


@distributed(2, 4, cases=BY_RANKS, needs=lambda _, move: saving(move))
def test_experts_go_on_elsewhere(case: Move) -> None:
    """The momentum is that of the saved run as well, or the steps would differ."""
    path = folder("experts universal", f"{case.saved.ranks}", case.saved.name)
    expected = torch.load(path / "expected.pt", weights_only=False)
    engine = case.loaded.start(checkpoint={"load_universal": True})
    train(engine, range(7, 8))
    names = [group["name"] for group in engine.basic_optimizer.param_groups]
    engine.load_checkpoint(str(path), tag="universal")
    # They say over how many ranks experts are spread, here and not where they were saved.
    assert names == [group["name"] for group in engine.basic_optimizer.param_groups]
    half = case.loaded.whole(engine)
    assert half.keys() == expected["half"].keys()
    for name, weight in expected["half"].items():
        assert np.array_equal(weight, half[name]), f"{name} differs"
    train(engine, range(2, 4))
    for name, weight in case.loaded.whole(engine).items():
        moved = np.linalg.norm(expected["end"][name] - half[name])
        error = np.linalg.norm(weight - expected["end"][name]) / moved
        assert error < 1e-4, f"{name}: {error}"


@distributed(2)
def test_without_conversion_another_spread_is_refused() -> None:
    """With the command that converts it."""
    path = folder("experts elsewhere")
    for kind in (MOE_LAYER, AUTO_EP):
        saved, other = Spread(kind, 2, 2, 2), Spread(kind, 2, 1, 2)
        engine = saved.start()
        train(engine, range(1))
        engine.save_checkpoint(str(path / kind), tag="half")
        with pytest.raises(ValueError, match="gradopt-ds convert"):
            other.start().load_checkpoint(str(path / kind), tag="half")
