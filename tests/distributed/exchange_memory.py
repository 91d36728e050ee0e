"""What an exchange allocates beside what its plan says, on every rank."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from gradopt_ds.matrices import ExchangeSettings, RowShards
from gradopt_ds.memory.allocations import LiveStorages
from gradopt_ds.ops import PolarExpress, swan_direction
from gradopt_ds.sharding import Exchange, Layout, make_plan

SHAPES = [(96, 96)] * 12 + [(256, 96)] * 6 + [(96, 256)] * 3
BUCKETS = (1, 12 * 4 * 60_000, 2**29)


def live_and_planned(layout: Layout) -> Iterator[tuple[int, int, int]]:
    """A step of SWAN for each bucket: its bytes, the most that lived at a time, and the plan's."""
    direction = torch.randn(layout.slice_size)
    oracle = PolarExpress(dtype=torch.float32)

    def rule(x: Tensor, across: RowShards) -> tuple[Tensor, Tensor]:
        return swan_direction(x, oracle, across), x.new_ones(len(x))

    for bucket in BUCKETS:
        chosen = ExchangeSettings(exchange_bucket_size=bucket)
        exchange = Exchange(make_plan(layout, oracle, chosen), dist.group.WORLD)
        param = torch.zeros(layout.slice_size)
        with LiveStorages() as live:
            for updates in exchange(param, direction, rule):
                torch._foreach_mul_(updates.directions, updates.scales.unbind())
                torch._foreach_sub_(updates.parts_of(lambda param: param), updates.directions)
        assert param.all()
        yield bucket, live.peak, exchange.plan.peak_bytes(dist.get_rank())
