"""What is written on parameters → how they are cut."""

from typing import Any

import pytest
import torch
from torch import nn

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.integration.parallel.tensor_metadata import (
    autotp_cuts,
    megatron_cuts,
    megatron_marks,
)


def with_metadata(shape: tuple[int, ...], **metadata: Any) -> nn.Module:
    """A model of one parameter, marked as AutoTP marks it."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(shape))})
    plain = {
        "replicated": False,
        "partition_dim": 0,
        "partition_sizes": None,
        "sub_param_shard_widths": None,
        "original_shape": (6, 4),
        "logical_shape": (6, 4),
        "conversion": {"unsupported_reason": metadata.pop("unsupported_reason", None)},
    }
    model["w"].ds_autotp_universal_checkpoint_meta = {**plain, **metadata}
    return model


@pytest.mark.parametrize(
    ("shape", "metadata", "expected"),
    [
        ((3, 4), {"partition_sizes": (2, 3, 1)}, TensorCut((6, 4), 0, ((2, 3, 1),))),
        ((6, 3), {"partition_dim": 1, "partition_sizes": (1, 3)}, TensorCut((6, 4), 1, ((1, 3),))),
        (
            (3, 4),
            {"sub_param_shard_widths": [[1, 2], [2, 1]]},
            TensorCut((6, 4), 0, ((1, 2), (2, 1))),
        ),
        ((6, 4), {"replicated": True, "partition_dim": None}, TensorCut((6, 4))),
    ],
)
def test_autotp(shape: tuple[int, ...], metadata: dict[str, Any], expected: TensorCut) -> None:
    """Uneven shards, by rows and columns, of fused weights, and copies."""
    model = with_metadata(shape, **metadata)
    assert list(autotp_cuts(model, 1).values()) == [expected]


def test_what_autotp_leaves_alone_is_a_copy() -> None:
    """It writes nothing on it."""
    model = nn.LayerNorm(5)
    assert set(autotp_cuts(model, 0).values()) == {TensorCut((5,))}


@pytest.mark.parametrize(
    ("shape", "metadata", "message"),
    [
        ((3, 4), {}, "metadata does not say where"),
        ((3, 4), {"unsupported_reason": "heads are interleaved"}, "heads are interleaved"),
        ((3, 4), {"partition_sizes": (3, 3), "logical_shape": (2, 3, 4)}, r"\(2, 3, 4\)"),
        ((3, 4), {"partition_sizes": (3, 2)}, "add up to 5"),
        ((3, 4), {"partition_sizes": (3, 3), "partition_dim": None}, "does not say where"),
        ((2, 4), {"partition_sizes": (3, 3)}, r"has shape \(2, 4\) .* says \(3, 4\)"),
    ],
)
def test_what_autotp_does_not_say_is_refused(
    shape: tuple[int, ...], metadata: dict[str, Any], message: str
) -> None:
    """With the name of the parameter and the reason."""
    with pytest.raises(ValueError, match=f"'w'.*{message}"):
        autotp_cuts(with_metadata(shape, **metadata), 1)


def marked(shape: tuple[int, ...], axis: int | None = None, stride: int = 1) -> nn.Module:
    """A model of one parameter, marked as Megatron marks it."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(shape))})
    if axis is not None:
        vars(model["w"]).update(
            tensor_model_parallel=True, partition_dim=axis, partition_stride=stride
        )
    return model


@pytest.mark.parametrize(
    ("shapes", "axis", "stride", "expected"),
    [
        ([(2, 4), (3, 4)], 0, 1, TensorCut((5, 4), 0, ((2, 3),))),
        ([(5, 1), (5, 3)], 1, 1, TensorCut((5, 4), 1, ((1, 3),))),
        ([(6, 4), (6, 4)], 0, 3, TensorCut((12, 4), 0, ((2, 2),) * 3)),
        ([(5,), (5,)], None, 1, TensorCut((5,))),
    ],
)
def test_megatron(
    shapes: list[tuple[int, ...]], axis: int | None, stride: int, expected: TensorCut
) -> None:
    """Shards of all ranks, strides as sub-parameters, and copies."""
    models = [marked(shape, axis, stride) for shape in shapes]
    everywhere = [megatron_marks(model) for model in models]
    assert list(megatron_cuts(models[0], everywhere).values()) == [expected]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([marked((2, 4), 0), marked((2, 5), 0)], "do not make up"),
        ([marked((3, 4), 0, 2), marked((3, 4), 0, 2)], "partition_stride 2"),
        ([marked((2, 4), -1), marked((2, 4), -1)], "partition_dim -1"),
        ([marked((2, 4)), marked((3, 4))], "is not cut"),
        ([marked((2, 4), 0), marked((2, 4), 1)], "do not agree"),
        ([marked((2, 4), 0), marked((2, 4))], "do not agree"),
        ([marked((2, 4), 0), nn.ParameterDict()], "different parameters"),
    ],
)
def test_marks_that_do_not_fit_are_refused(models: list[nn.Module], message: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=message):
        megatron_cuts(models[0], [megatron_marks(model) for model in models])
