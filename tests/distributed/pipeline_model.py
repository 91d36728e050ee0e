"""Models that DeepSpeed cuts into pipeline stages, and the same layers in one process."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from torch import Tensor, nn

from tests.distributed.model import HIDDEN, VOCABULARY, Block, micro_batch


class Head(nn.Module):
    """An output head whose name says nothing: only the embedding's shape gives it away."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.out = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(self.norm(x))


class Mixer(nn.Module):
    """A hidden layer that several stages share."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        return x + torch.tanh(self.inner(x))


def project(embedding: nn.Module, x: Tensor) -> Tensor:
    """Logits by a tied embedding."""
    return x @ embedding.weight.T


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def _embedding(**more: Any) -> TiedLayerSpec:
    return TiedLayerSpec("embed", nn.Embedding, VOCABULARY, HIDDEN, **more)


def _mixer() -> TiedLayerSpec:
    return TiedLayerSpec("mixer", Mixer, tied_weight_attr="inner.weight")


MODELS: Mapping[str, Callable[[], list[Any]]] = {
    "untied": lambda: [
        LayerSpec(nn.Embedding, VOCABULARY, HIDDEN),
        LayerSpec(Block),
        LayerSpec(Block),
        LayerSpec(Head),
    ],
    "tied": lambda: [
        _embedding(),
        LayerSpec(Block),
        LayerSpec(nn.LayerNorm, HIDDEN),
        LayerSpec(Block),
        LayerSpec(nn.LayerNorm, HIDDEN),
        _embedding(forward_fn=project),
    ],
    "tied matrix": lambda: [
        LayerSpec(nn.Embedding, VOCABULARY, HIDDEN),
        _mixer(),
        LayerSpec(Block),
        _mixer(),
        LayerSpec(Head),
    ],
    "no matrix on the last stage": lambda: [
        LayerSpec(nn.Embedding, VOCABULARY, HIDDEN),
        LayerSpec(Block),
        LayerSpec(nn.LayerNorm, HIDDEN),
        LayerSpec(Head),
    ],
    "a copy alone on the last stage": lambda: [
        _embedding(),
        LayerSpec(Block),
        LayerSpec(nn.Tanh),
        _embedding(forward_fn=project),
    ],
}
"""Layers; of an odd number of them the first of two stages has one more."""

_OF_A_BLOCK = ("square", "up", "odd", "down")
MATRICES = {
    "untied": {f"{layer}.{name}.weight" for layer in (1, 2) for name in _OF_A_BLOCK},
    "tied": {f"{layer}.{name}.weight" for layer in (1, 3) for name in _OF_A_BLOCK},
    "tied matrix": {
        "tied_modules.mixer.inner.weight",
        *(f"2.{name}.weight" for name in _OF_A_BLOCK),
    },
    "no matrix on the last stage": {f"1.{name}.weight" for name in _OF_A_BLOCK},
    "a copy alone on the last stage": {f"1.{name}.weight" for name in _OF_A_BLOCK},
}
"""What must get the matrix rule, by its name in the whole model; written down by hand."""


def build_stages(model: str, stages: int = 2, **arguments: Any) -> PipelineModule:
    """The stage of this rank; the weights of the whole model do not depend on how it is cut."""
    arguments = {"num_stages": stages, "partition_method": "uniform", **arguments}
    module = PipelineModule(MODELS[model](), loss_fn=loss, **arguments)
    fill(module)
    return module


class OneProcess(nn.Module):
    """The same layers, all in one process, with the names that they have in a pipeline."""

    def __init__(self, specs: Sequence[Any]) -> None:
        super().__init__()
        self.tied_modules = nn.ModuleDict()
        self.layers: list[Callable[[Tensor], Tensor]] = []
        for index, spec in enumerate(specs):
            if not isinstance(spec, TiedLayerSpec):
                self.add_module(str(index), spec.build())
                self.layers.append(self.get_submodule(str(index)))
                continue
            if spec.key not in self.tied_modules:
                self.tied_modules[spec.key] = spec.build()
            layer = self.tied_modules[spec.key]
            forward = spec.forward_fn
            self.layers.append(
                layer if forward is None else lambda x, f=forward, at=layer: f(at, x)
            )
        fill(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Loss of one micro-batch."""
        x, labels = inputs_and_labels(tokens)
        for layer in self.layers:
            x = layer(x)
        return loss(x, labels)


def fill(module: nn.Module) -> None:
    """Give every parameter the values that belong to its name."""
    for name, param in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        is_norm = param.ndim == 1 and name.endswith("weight")
        values = torch.randn(param.shape, generator=generator) * 0.2 + float(is_norm)
        with torch.no_grad():
            param.copy_(values)


def inputs_and_labels(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What a pipeline reads of one micro-batch: first and last stage take one of them each."""
    return tokens[:, :-1], tokens[:, 1:]


def batches(step: int, accumulation: int, pipeline: int) -> Any:
    """The micro-batches of one of the data-parallel pipelines, for ``train_batch``."""
    return iter([inputs_and_labels(micro_batch(step, m, pipeline)) for m in range(accumulation)])
