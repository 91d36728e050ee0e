"""What AutoTP and Megatron write on parameters of how they have cut them."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepspeed.checkpoint.constants import DS_AUTOTP_UC_META
from torch import Tensor, nn

from gradopt_ds.integration.parallel.tensor_cut import TensorCut

Marks = tuple[str, tuple[int, ...], int | None, int]
"""Name and shape of a parameter, the dimension that is cut and in how many strides; None and 1 of a
copy."""


def autotp_cuts(model: nn.Module, rank: int) -> dict[Tensor, TensorCut]:
    """Read how AutoTP has cut a model.

    Args:
        model: its layers have been replaced.
        rank: the tensor-parallel one.

    Raises:
        ValueError: a parameter is cut as this library does not know, or has another shape here
            than AutoTP's metadata says.
    """
    cuts: dict[Tensor, TensorCut] = {}
    for name, param in model.named_parameters():
        cuts[param] = cut = _autotp_cut(name, param)
        if cut.shard_shape(rank) != (shape := tuple(param.shape)):
            raise ValueError(
                f"{name!r} has shape {shape} on tensor-parallel rank {rank}, where AutoTP's "
                f"metadata says {cut.shard_shape(rank)}"
            )
    return cuts


def _autotp_cut(name: str, param: Tensor) -> TensorCut:
    metadata: Mapping[str, Any] | None = getattr(param, DS_AUTOTP_UC_META, None)
    if metadata is None or metadata["replicated"]:
        return TensorCut(tuple(param.shape))
    shape = metadata["original_shape"]
    reason = metadata["conversion"]["unsupported_reason"]
    sizes, fused = metadata["partition_sizes"], metadata["sub_param_shard_widths"]
    widths = fused or (sizes and [sizes])
    if not reason and (widths is None or metadata["partition_dim"] is None):
        reason = "its metadata does not say where"
    if not reason and tuple(metadata["logical_shape"]) != tuple(shape):
        reason = f"it is cut as a tensor of shape {tuple(metadata['logical_shape'])}"
    if not reason:
        try:
            return TensorCut(
                tuple(shape), metadata["partition_dim"], tuple(tuple(parts) for parts in widths)
            )
        except ValueError as error:
            reason = str(error)
    raise ValueError(
        f"it is not known how AutoTP has cut {name!r} of shape {tuple(shape)}: {reason}. Exempt it "
        'in "tensor_parallel": {"partition_config": …} of the JSON (partition_type "skip")'
    )


def megatron_marks(model: nn.Module) -> list[Marks]:
    """Return what this rank's parameters say of themselves, to be sent."""
    return [(name, tuple(param.shape), *_marks(param)) for name, param in model.named_parameters()]


def _marks(param: Tensor) -> tuple[Any, Any]:
    if not getattr(param, "tensor_model_parallel", False):
        return None, 1
    return getattr(param, "partition_dim", -1), getattr(param, "partition_stride", 1)


def megatron_cuts(
    model: nn.Module, everywhere: Sequence[Sequence[Marks]]
) -> dict[Tensor, TensorCut]:
    """Read how the layers of a model that is used with an ``mpu`` are cut.

    Args:
        model: its cut parameters have Megatron's attributes.
        everywhere: for each tensor-parallel rank its :func:`megatron_marks`.

    Raises:
        ValueError: the ranks disagree about a parameter, or its attributes do not fit its shapes.
    """
    if len({tuple(name for name, *_ in theirs) for theirs in everywhere}) > 1:
        raise ValueError("tensor-parallel ranks have different parameters")
    params = model.parameters()
    return {
        param: _megatron_cut(seen)
        for param, seen in zip(params, zip(*everywhere, strict=True), strict=True)
    }


def _megatron_cut(seen: Sequence[Marks]) -> TensorCut:
    """Join the shards that the ranks have of one parameter."""
    name, shape, axis, stride = seen[0]
    if len({(theirs, strides) for _, _, theirs, strides in seen}) > 1:
        raise ValueError(f"tensor-parallel ranks do not agree how {name!r} is cut: {list(seen)}")
    shapes = [theirs for _, theirs, _, _ in seen]
    if axis is None:
        if len(set(shapes)) > 1:
            raise ValueError(f"{name!r} is not cut (tensor_model_parallel), and has {shapes}")
        return TensorCut(shape)
    if axis not in range(len(shape)):
        raise ValueError(f"{name!r}: partition_dim {axis} is no dimension of shape {shape}")
    others = {(theirs[:axis], theirs[axis + 1 :]) for theirs in shapes}
    sizes = [theirs[axis] for theirs in shapes]
    if len(others) > 1 or stride < 1 or any(size % stride for size in sizes):
        raise ValueError(
            f"{name!r}: shards of {shapes} do not make up a parameter that is cut along dimension "
            f"{axis} with partition_stride {stride}"
        )
    widths = (tuple(size // stride for size in sizes),) * stride
    return TensorCut((*shape[:axis], sum(sizes), *shape[axis + 1 :]), axis, widths)
