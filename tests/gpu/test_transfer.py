"""One all-to-all with the sizes and dtypes of the exchange, by the backend of the accelerator."""

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from gradopt_ds.sharding.transfer import Transfer
from tests.distributed.harness import distributed
from tests.gpu.places import NCCL, SHARED


@dataclass(frozen=True)
class Sizes:
    """What each rank sends to each receiver: several tensors, one, or none."""

    name: str
    to: tuple[tuple[int, ...], ...]
    slices: str = "device"
    wire: torch.dtype = torch.float32


CASES = [
    Sizes("to all", ((3, 5), (2,))),
    Sizes("nothing to the last", ((4, 1), ())),
    Sizes("nothing at all", ((), ())),
    Sizes("in bfloat16", ((3, 5), (2,)), wire=torch.bfloat16),
    Sizes("from the host", ((3, 5), (2,)), slices="cpu"),
    Sizes("from pinned memory", ((3, 5), (2,)), slices="pinned"),
]


def check(case: Sizes) -> None:
    """Rank r sends numbers that say who sends what to whom."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device(get_accelerator().current_device_name())
    to = case.to[:ranks]
    outgoing = {r: [sent(rank, r, size, case, device) for size in to[r]] for r in range(ranks)}
    expected = {sender: sum(to[rank]) for sender in range(ranks)}
    group = dist.group.WORLD
    assert group is not None
    received = Transfer.start(outgoing, expected, case.wire, device, group).wait()
    wanted = [sent(r, rank, size, case, device) for r in range(ranks) for size in to[rank]]
    wanted_flat = torch.cat([torch.empty(0), *(x.cpu() for x in wanted)])
    assert received.dtype == case.wire and received.device.type == device.type
    assert torch.equal(received.float().cpu(), wanted_flat)


def sent(sender: int, receiver: int, size: int, case: Sizes, device: torch.device) -> Tensor:
    """Small integers, exact in bfloat16."""
    numbers = 16.0 * sender + 8 * receiver + torch.arange(size)
    if case.slices == "device":
        return numbers.to(device)
    return numbers.pin_memory() if case.slices == "pinned" and device.type == "cuda" else numbers


@pytest.mark.gpu
@distributed(1, cases=CASES, place=NCCL)
def test_by_nccl(case: Sizes) -> None:
    """A rank sends to itself alone: more need more GPUs."""
    check(case)


@pytest.mark.gpu
@distributed(2, cases=CASES, place=SHARED)
def test_by_gloo_on_one_device(case: Sizes) -> None:
    check(case)


@distributed(1, cases=CASES)
def test_rehearsal_on_the_cpu(case: Sizes) -> None:
    check(case)
