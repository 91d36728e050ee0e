"""Transfer: one all-to-all in flight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Transfer:
    """What is on its way between the ranks; ``outgoing`` must live until it has arrived.

    Attributes:
        work: the collective.
        outgoing: what this rank sends, by receiver.
        incoming: what it receives, by sender.
    """

    work: dist.Work
    outgoing: Tensor
    incoming: Tensor

    @classmethod
    def start(
        cls,
        outgoing: Mapping[int, Sequence[Tensor]],
        incoming: Mapping[int, int],
        dtype: torch.dtype,
        device: torch.device,
        group: dist.ProcessGroup,
    ) -> "Transfer":
        """Begin to exchange; every rank of the group must take part.

        Args:
            outgoing: receiver → 1-d tensors of any dtype, on any device.
            incoming: sender → number of elements.
            dtype: what they travel in.
            device: where the collective runs.
            group: the ranks.
        """
        world_size = dist.get_world_size(group)
        sizes = [sum(map(Tensor.numel, outgoing.get(rank, ()))) for rank in range(world_size)]
        send = torch.empty(sum(sizes), dtype=dtype, device=device)
        parts = [part for rank in range(world_size) for part in outgoing.get(rank, ())]
        copy_each(parts, send.split([part.numel() for part in parts]))
        expected = [incoming.get(rank, 0) for rank in range(world_size)]
        receive = torch.empty(sum(expected), dtype=dtype, device=device)
        work = dist.all_to_all_single(receive, send, expected, sizes, group=group, async_op=True)
        assert work is not None
        return cls(work, send, receive)

    def wait(self) -> Tensor:
        """Wait for what the others sent; flat, in order of their ranks."""
        self.work.wait()
        return self.incoming


def copy_each(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Copy each source to its target, all in one call; any dtypes and devices."""
    if sources:
        torch._foreach_copy_(list(targets), list(sources))
