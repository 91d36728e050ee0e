"""What ZeRO holds on one rank: a pure function of shapes, read off DeepSpeed's wrappers.

Stages 1 and 2 lay every parameter group into one flat tensor, padded to a multiple of twice the
ranks, and step on this rank's slice of it. Gradients are kept of the parameters that the slice
touches, whole. Stage 3 cuts every parameter into equal chunks and steps on sub-groups of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from gradopt_ds.integration.zero.cutting import chunk_size, slice_size, sub_groups
from gradopt_ds.memory.setup import Setup


@dataclass(frozen=True)
class Group:
    """The parameters that one group of the optimizer has on a rank.

    Attributes:
        shapes: of the parameters, in order.
        ranks: over which they are cut; fewer than all for experts.
    """

    shapes: tuple[tuple[int, ...], ...]
    ranks: int

    @property
    def numels(self) -> list[int]:
        """Elements of each parameter."""
        return [prod(shape) for shape in self.shapes]

    @property
    def slice_size(self) -> int:
        """Elements of a rank's slice at stages 1 and 2, padding included."""
        return slice_size(sum(self.numels), self.ranks)

    def touched(self, rank: int) -> int:
        """Count the elements of whole parameters that a rank's slice touches, padding included."""
        start = rank % self.ranks * self.slice_size
        stop = start + self.slice_size
        ends = list(accumulate(self.numels))
        whole = sum(
            n
            for n, end in zip(self.numels, ends, strict=True)
            if end > start > end - n or start <= end - n < stop
        )
        return whole + max(0, stop - max(start, ends[-1]))

    def sub_groups(self, size: int) -> Iterator[int]:
        """Count the elements of a rank's part of each sub-group of stage 3."""
        chunks = [chunk_size(numel, self.ranks) for numel in self.numels]
        for members in sub_groups(chunks, size):
            yield sum(chunks[index] for index in members)


@dataclass(frozen=True, kw_only=True)
class ZeroBytes:
    """Bytes on one rank, state and activations left out.

    Attributes:
        weights: of the model; at stage 3 this rank's part, and the parameters that stay whole.
        masters: what the optimizer steps on, where those are not the weights.
        gradients: held after the last backward pass of a step.
        step_gradients: held while the optimizer steps, at most: with the copy that it steps with.
        cast_gradients: held while that copy is made, at most.
        buckets: held throughout.
        backward_buckets: held during the backward pass besides.
    """

    weights: int
    masters: int
    gradients: int
    step_gradients: int
    cast_gradients: int
    buckets: int
    backward_buckets: int


def stepped_shapes(groups: Sequence[Group], setup: Setup) -> list[list[tuple[int, ...]]]:
    """Return for each group the shapes of the tensors that the optimizer steps on."""
    if setup.stage == 0:
        return [list(group.shapes) for group in groups]
    if setup.stage < 3:
        return [[(group.slice_size,)] for group in groups]
    return [[(size,) for size in group.sub_groups(setup.sub_group_size)] for group in groups]


def steps_on_all_groups(setup: Setup) -> bool:
    """Tell whether one step sees all groups; else ZeRO takes a step for one after the other."""
    return setup.stage == 0 or _is_bf16_optimizer(setup)


def zero_bytes(groups: Sequence[Group], setup: Setup, rank: int) -> ZeroBytes:
    """Return the bytes of every buffer that ZeRO keeps for these groups on a rank."""
    if setup.stage == 0:
        return _stage_0(groups, setup)
    if setup.stage == 3:
        return _stage_3(groups, setup)
    if _is_bf16_optimizer(setup):
        return _bf16_optimizer(groups, setup)
    return _stages_1_and_2(groups, setup, rank)


def _stage_0(groups: Sequence[Group], setup: Setup) -> ZeroBytes:
    elements = sum(sum(group.numels) for group in groups)
    weight, master = setup.dtypes.weights.itemsize, setup.dtypes.masters.itemsize
    copied = weight != master
    during = elements * (weight + master * copied)
    return ZeroBytes(
        weights=elements * weight,
        masters=elements * master * copied,
        gradients=elements * weight,
        step_gradients=during,
        cast_gradients=during,
        buckets=0,
        # DeepSpeed's all-reduce flattens the gradients of a bucket at a time.
        backward_buckets=min(elements, setup.reduce_bucket_size) * weight * (setup.ranks > 1),
    )


def _stages_1_and_2(groups: Sequence[Group], setup: Setup, rank: int) -> ZeroBytes:
    weight, master = setup.dtypes.weights.itemsize, setup.dtypes.masters.itemsize
    accumulated = setup.dtypes.gradients.itemsize
    slices = [group.slice_size for group in groups]
    compact = weight != accumulated
    if compact:  # one flat tensor per group
        kept = [size * accumulated for size in slices]
        shared = 0
    else:  # views of one tensor, which stays until the last group has been stepped
        kept = [0] * len(groups)
        shared = sum(group.touched(rank) for group in groups) * accumulated
    during, casting = [], []
    for index, size in enumerate(slices):
        left = sum(kept[index + 1 :]) + shared * (index < len(slices) - 1)
        during.append(left + size * master)
        copies = accumulated * (not compact) + master * (master != accumulated)
        casting.append(shared + sum(kept[index:]) + size * max(copies, accumulated))
    whole = sum(size * group.ranks for size, group in zip(slices, groups, strict=True)) * weight
    gradients = shared + sum(kept)
    if setup.stage == 1 and setup.accumulation > 1:
        gradients = max(gradients, sum(sum(group.numels) for group in groups) * weight)
    buckets = 2 if setup.overlap_comm else 1
    if setup.offload_optimizer:
        largest = max(numel for group in groups for numel in group.numels)
        return ZeroBytes(
            weights=whole,
            masters=sum(slices) * master,
            gradients=sum(slices) * master,
            step_gradients=sum(slices) * master,
            cast_gradients=sum(slices) * master,
            buckets=(sum(slices) + 2 * largest) * weight,
            backward_buckets=buckets * setup.reduce_bucket_size * weight,
        )
    return ZeroBytes(
        weights=whole,
        masters=sum(slices) * master,
        gradients=gradients,
        step_gradients=max(during),
        cast_gradients=max(casting),
        buckets=0,
        backward_buckets=buckets * setup.reduce_bucket_size * weight,
    )


def _is_bf16_optimizer(setup: Setup) -> bool:
    return setup.stage == 1 and setup.precision == "bf16-fp32-gradients"


def _bf16_optimizer(groups: Sequence[Group], setup: Setup) -> ZeroBytes:
    """Count for bf16 with fp32 gradients at stage 1, which DeepSpeed's wrapper never partitions."""
    weight = setup.dtypes.weights.itemsize
    flat = sum(group.slice_size * group.ranks for group in groups)
    gradients = flat * setup.dtypes.gradients.itemsize
    fresh = sum(sum(group.numels) for group in groups) * weight
    return ZeroBytes(
        weights=flat * weight,
        masters=sum(group.slice_size for group in groups) * setup.dtypes.masters.itemsize,
        gradients=gradients + fresh,
        step_gradients=gradients + fresh,
        cast_gradients=gradients + fresh,
        buckets=0,
        backward_buckets=0,
    )


def _stage_3(groups: Sequence[Group], setup: Setup) -> ZeroBytes:
    weight, master = setup.dtypes.weights.itemsize, setup.dtypes.masters.itemsize
    accumulated = setup.dtypes.gradients.itemsize
    parts = [size for group in groups for size in group.sub_groups(setup.sub_group_size)]
    # What is gathered is padded to equal chunks. On one rank it is what is held.
    cut = [group for group in groups if group.ranks > 1]
    pairs = [(n, group.ranks * chunk_size(n, group.ranks)) for group in cut for n in group.numels]
    persistent = sum(
        padded for exact, padded in pairs if exact <= setup.param_persistence_threshold
    )
    gathered = min(sum(padded for _, padded in pairs) - persistent, setup.max_live_parameters)
    kept = sum(parts) * accumulated
    if setup.offload_optimizer:
        during = casting = kept + sum(parts) * master
    else:
        during = kept + max(parts) * master
        casting = during + max(parts) * accumulated * (accumulated != master)
    return ZeroBytes(
        weights=(sum(parts) + persistent) * weight,
        masters=sum(parts) * master,
        gradients=kept + (sum(parts) * master if setup.offload_optimizer else 0),
        step_gradients=during,
        cast_gradients=casting,
        buckets=setup.reduce_bucket_size * weight,
        backward_buckets=gathered * weight,
    )
