"""Facts about parameters: all that the choice of a rule depends on, as plain data.

They are read from the modules of the model, and can be sent: under pipeline parallelism no process
has all the modules, but each must come to the rules of the whole model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gradopt_ds.optim.splits import stacked_experts

Owner = Literal["embedding", "convolution", "linear", "head", "router", "other"]
"""What a module that a parameter belongs to is."""

EXPERTS = frozenset({"experts", "deepspeed_experts", "deepspeed_moe"})
"""What a module that routes tokens calls its experts."""

ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "coefficient"})
"""What it calls the layers that choose and weigh them."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
MEGATRON: Mapping[str, Owner] = {
    "VocabParallelEmbedding": "embedding",
    "ColumnParallelLinear": "linear",
    "RowParallelLinear": "linear",
}
"""Names of classes that stand for torch's where ranks have shards of the weights."""

REMEMBERED = "gradopt_ds_facts"
"""Attribute of a parameter whose facts were read before its module was replaced."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class ParameterFacts:
    """What is known of a parameter before a rule is chosen.

    Attributes:
        name: in the whole model.
        shape: of the whole parameter.
        owners: what the modules are that it belongs to; more than one if it is tied.
        in_block: whether it lies in one of several numbered layers.
        stack: how the module itself says that the matrices of a 3-D stack are divided, and the
            reason that is given for it; ``None`` if it does not say.
    """

    name: str
    shape: tuple[int, ...]
    owners: frozenset[Owner]
    in_block: bool
    stack: tuple[int, str] | None = None


def whole_shape(param: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter, also of one that ZeRO stage 3 has cut into chunks.

    ``deepspeed.zero.Init`` leaves an empty placeholder and writes the shape beside it.
    """
    return tuple(getattr(param, "ds_shape", param.shape))


def remember_facts(param: Tensor, facts: ParameterFacts) -> None:
    """Have :func:`read_facts` return these, whatever has become of the parameter and its module."""
    setattr(param, REMEMBERED, facts)


def read_facts(model: nn.Module) -> dict[Tensor, ParameterFacts]:
    """Read the facts about every trainable parameter of ``model``.

    Returns:
        Parameter → facts, in the order of ``model.named_parameters()``.
    """
    names = {param: name for name, param in model.named_parameters() if param.requires_grad}
    modules: dict[Tensor, list[nn.Module]] = {param: [] for param in names}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            if param in modules:
                modules[param].append(module)
    routers = set(_routers(model))
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    facts: dict[Tensor, ParameterFacts] = {}
    for param, name in names.items():
        if remembered := getattr(param, REMEMBERED, None):
            facts[param] = remembered
            continue
        owners: set[Owner] = {_owner(module, head) for module in modules[param]}
        if param in routers:
            owners.add("router")
        shape, leaf = whole_shape(param), name.split(".")[-1]
        stack = stacked_experts(modules[param][0], leaf) if len(shape) == 3 else None
        facts[param] = ParameterFacts(
            name, shape, frozenset(owners), in_numbered_layer(name), stack
        )
    return facts


def in_numbered_layer(name: str) -> bool:
    """Tell whether a module on the way to a parameter has a number for its name."""
    return any(part.isdigit() for part in name.split(".")[:-1])


def _owner(module: nn.Module, head: nn.Module | None) -> Owner:
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if module is head:
        return "head"
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    names = [known.__name__ for known in type(module).__mro__]
    return next((MEGATRON[name] for name in names if name in MEGATRON), "other")


def _routers(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of what stands beside experts and chooses among them."""
    for module in model.modules():
        if EXPERTS.intersection(children := dict(module.named_children())):
            for name in ROUTERS.intersection(children):
                yield from children[name].parameters()
