"""How ZeRO cuts parameters, from their numbers of elements: what the readers find on live wrappers.

Source: deepspeed/runtime/zero/stage_1_and_2.py (``nccl_start_alignment_factor``) and stage3.py
(``_create_fp16_sub_groups``, ``partition_numel``), release 0.19.8.
"""

from collections.abc import Iterator, Sequence

ALIGNMENT = 2
"""Stages 1 and 2 pad a group to a multiple of this times the number of ranks, so that every slice
begins on a multiple of four bytes in half precision."""


def slice_size(elements: int, ranks: int) -> int:
    """Count the elements of a rank's slice of a group at stages 1 and 2, padding included."""
    return ALIGNMENT * -(-elements // (ALIGNMENT * ranks))


def chunk_size(elements: int, ranks: int) -> int:
    """Count the elements of a rank's chunk of a parameter at stage 3, padding included."""
    return -(-elements // ranks)


def sub_groups(chunks: Sequence[int], most: int) -> Iterator[range]:
    """Return the parameters of each sub-group of stage 3, as indices.

    Args:
        chunks: elements that a rank has of each parameter of a group, in order.
        most: ``sub_group_size``: a sub-group is closed once it holds this many elements.
    """
    first = held = 0
    for index, chunk in enumerate(chunks):
        held += chunk
        if held >= most:
            yield range(first, index + 1)
            first, held = index + 1, 0
    if first < len(chunks):
        yield range(first, len(chunks))
