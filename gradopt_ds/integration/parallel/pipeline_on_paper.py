"""Which parameters ``PipelineModule`` would give to which stage: from shapes, without processes."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import Literal

from deepspeed.runtime.utils import partition_balanced, partition_uniform
from torch import nn

from gradopt_ds.optim.facts import whole_shape

Partition = Literal["parameters", "uniform"]
"""``partition_method``: stages with equally many parameters, or with equally many layers."""


def pipeline_stages(
    model: nn.Module, stages: int, method: Partition, elements: Mapping[str, int] | None = None
) -> list[list[str]]:
    """Return the names of the parameters on each stage.

    A model is taken as the sequence of its layers, as one would write it for ``PipelineModule``:
    every entry of its ``ModuleList`` is a layer, and so is every other module with parameters that
    stands beside it (embedding, last norm, head). Tied layers are on all their stages.

    Args:
        model: it may be on the meta device.
        stages: their number.
        method: of partitioning.
        elements: of each parameter on a rank, if that is less than its shape says.

    Raises:
        ValueError: the model has fewer layers than stages, or no list of layers.
    """
    names = {param: name for name, param in model.named_parameters()}
    if stages == 1:
        return [list(names.values())]
    counts = elements or {name: prod(whole_shape(param)) for param, name in names.items()}
    layers = [[names[param] for param in layer.parameters()] for layer in _layers(model)]
    layers = [layer for layer in layers if layer]
    if not any(isinstance(module, nn.ModuleList) for module in model.modules()):
        raise ValueError(f"a {type(model).__name__} has no ModuleList of layers to cut into stages")
    if len(layers) < stages:
        raise ValueError(f"pipeline {stages}: the model has {len(layers)} layers only")
    if method == "uniform":
        bounds = partition_uniform(len(layers), stages)
    else:
        bounds = partition_balanced([sum(counts[name] for name in own) for own in layers], stages)
    return [
        list(dict.fromkeys(name for layer in layers[start:stop] for name in layer))
        for start, stop in pairwise(bounds)
    ]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(isinstance(inside, nn.ModuleList) for inside in child.modules()):
            yield from _layers(child)
        else:
            yield child
