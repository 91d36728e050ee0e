"""Peaks of work whose allocations are known."""

import torch

from gradopt_ds.memory.allocations import LiveStorages, PeakBytes

N = 1000
BYTES = 4 * N


def test_what_lives_together_counts_together() -> None:
    """Two at a time, though five are allocated."""
    with LiveStorages() as live:
        for _ in range(5):
            kept = torch.zeros(N)
            del kept
        first, second = torch.zeros(N), torch.ones(N)
        del first, second
    assert live.peak == 2 * BYTES


def test_views_and_writes_in_place_are_no_allocations() -> None:
    """Nor are tensors from before."""
    before = torch.zeros(N)
    with LiveStorages() as live:
        before.view(10, -1).add_(1)[3:].t()
        fresh = torch.ones(N)
        fresh[3:].mul_(2)
    assert live.peak == BYTES


def test_the_worst_of_several_pieces_of_work() -> None:
    """Each begins at nothing."""

    class Worker:
        def work(self, n: int) -> int:
            return torch.zeros(n).numel()

    worker, peak = Worker(), PeakBytes(torch.device("cpu"))
    peak.during(worker, "work")
    assert [worker.work(n) for n in (5, N, 7)] == [5, N, 7]
    assert peak.most == BYTES
