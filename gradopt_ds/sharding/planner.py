"""Planner: from a layout to a plan. Pure and deterministic; every rank comes to the same plan."""

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from gradopt_ds.matrices.exchange_settings import ExchangeSettings, Strategy
from gradopt_ds.ops import Oracle
from gradopt_ds.sharding.layout import Layout
from gradopt_ds.sharding.plan import COPIES, ELEMENT_BYTES, Plan

TALL = 4
"""From this ratio of rows to columns the Gram matrix is small beside the matrix."""


def make_plan(
    layout: Layout,
    oracle: Oracle,
    settings: ExchangeSettings | None = None,
    carried: Sequence[int] | None = None,
) -> Plan:
    """Choose a strategy for every matrix, an owner, and the order of the exchange.

    The costliest matrices choose first, each the least loaded of its holders (an outsider would
    have to receive all of the matrix). A cut matrix that is larger than a bucket and tall is never
    put together: its Gram matrix is.

    Args:
        layout: where the pieces are.
        oracle: counts the FLOPs of a matrix, and says whether it works from row shards.
        settings: bucket size and strategies that the user has chosen.
        carried: FLOPs that the ranks have from other plans of the same step.

    Returns:
        The plan; its ``flops`` are those of its own matrices.

    Raises:
        ValueError: strategy gram is asked for a matrix that is not tall, or that tensor parallelism
            has cut by columns, or from an oracle that needs all rows in one place.
    """
    settings = settings or ExchangeSettings()
    strategies = tuple(
        _strategy(layout, index, oracle, settings) for index in range(len(layout.matrices))
    )
    owners, flops = _owners(layout, strategies, oracle, carried or [0] * layout.world_size)
    most = settings.exchange_bucket_size // (COPIES * ELEMENT_BYTES)
    return Plan(layout, strategies, owners, _rounds(layout, strategies, owners, most), flops)


def _strategy(layout: Layout, index: int, oracle: Oracle, settings: ExchangeSettings) -> Strategy:
    matrix = layout.matrices[index]
    if len(layout.holders(index)) == 1:
        return "local"
    for pattern, strategy in settings.exchange_strategy.items():
        if fnmatchcase(matrix.name, pattern):
            if strategy == "gram" and (reason := _why_not_gram(layout, index, oracle)):
                raise ValueError(f"exchange_strategy {pattern!r}: {reason}")
            return strategy
    large = matrix.numel * ELEMENT_BYTES > settings.exchange_bucket_size
    tall = matrix.rows >= TALL * matrix.columns
    works = large and tall and not _why_not_gram(layout, index, oracle)
    return "gram" if works else "owner"


def _why_not_gram(layout: Layout, index: int, oracle: Oracle) -> str | None:
    matrix = layout.matrices[index]
    if not oracle.row_shards:
        return (
            "gram needs an oracle that works from the Gram matrix, and "
            f"{oracle.name!r} does not; take 'eigh' for an exact one"
        )
    if matrix.rows < matrix.columns:
        return (
            "gram works on rows of tall matrices, and "
            f"{matrix.name!r} is {matrix.rows} x {matrix.columns}"
        )
    if matrix.arrangement:
        return (
            "gram works on rows, and those of "
            f"{matrix.name!r} are interwoven or stored as columns; take 'owner' for it"
        )
    if layout.widths(index):
        return (
            "gram works on rows, and tensor parallelism has cut "
            f"{matrix.name!r} by columns; take 'owner' for it"
        )
    return None


def _owners(
    layout: Layout, strategies: Sequence[Strategy], oracle: Oracle, carried: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose the rank that applies the rule for each matrix; return them and the FLOPs per rank."""
    cost = [sum(oracle.flops(*shape) for shape in m.shapes) for m in layout.matrices]
    load = list(carried)
    elements = [0] * layout.world_size
    owners = [-1] * len(strategies)
    # Local and gram matrices have no choice, so they are counted first.
    for index, strategy in enumerate(strategies):
        if strategy == "local":
            (owners[index],) = layout.holders(index)
            load[owners[index]] += cost[index]
        elif strategy == "gram":
            columns = layout.matrices[index].columns
            for piece in layout.pieces(index):
                if layout.same_copy(index, piece.rank, index):
                    load[piece.rank] += oracle.shard_flops(piece.length // columns, columns)
    free = [index for index, strategy in enumerate(strategies) if strategy == "owner"]
    for index in sorted(free, key=lambda i: (-cost[i], i)):
        # Among equally loaded holders the one that has handled least, so that bytes balance too.
        owners[index] = min(layout.holders(index), key=lambda r: (load[r], elements[r], r))
        load[owners[index]] += cost[index]
        elements[owners[index]] += layout.matrices[index].numel
    while trade := _best_trade(layout, free, owners, cost, load):
        for index, rank in trade.items():
            load[owners[index]] -= cost[index]
            load[rank] += cost[index]
            owners[index] = rank
    return tuple(owners), tuple(a - b for a, b in zip(load, carried, strict=True))


def _best_trade(
    layout: Layout,
    free: Sequence[int],
    owners: Sequence[int],
    cost: Sequence[int],
    load: Sequence[int],
) -> dict[int, int] | None:
    """Find the move, or the exchange of two matrices, that relieves the busiest rank most."""
    owned: dict[int, dict[int, int]] = defaultdict(dict)  # rank → cost → some matrix of that cost
    for index in free:
        owned[owners[index]][cost[index]] = index
    busiest = max(range(layout.world_size), key=lambda rank: (load[rank], -rank))
    best, relieved = None, load[busiest]
    for given, index in owned[busiest].items():
        for rank in layout.holders(index):
            for taken, back in [(0, None), *owned[rank].items()]:
                peak = max(load[busiest] - given + taken, load[rank] + given - taken)
                if peak < relieved and (back is None or busiest in layout.holders(back)):
                    best, relieved = {index: rank}, peak
                    if back is not None:
                        best[back] = busiest
    return best


def _rounds(
    layout: Layout, strategies: Sequence[Strategy], owners: Sequence[int], most: int
) -> tuple[tuple[int, ...], ...]:
    """Give every owner up to ``most`` elements per round, and at least one matrix."""
    rounds: list[list[int]] = []
    at = [0] * layout.world_size
    held = [0] * layout.world_size
    # Equal shapes follow one another, so that they meet in one round and one call of the oracle.
    free = [index for index, strategy in enumerate(strategies) if strategy == "owner"]
    for index in sorted(free, key=lambda i: (-layout.matrices[i].numel, layout.matrices[i].rows)):
        # The updates of copies are sent to all of them.
        owner, numel = owners[index], layout.matrices[index].numel * layout.copies(index)
        if held[owner] and held[owner] + numel > most:
            at[owner] += 1
            held[owner] = 0
        held[owner] += numel
        if at[owner] == len(rounds):
            rounds.append([])
        rounds[at[owner]].append(index)
    rounds += [[index] for index, strategy in enumerate(strategies) if strategy == "gram"]
    return tuple(map(tuple, rounds))
