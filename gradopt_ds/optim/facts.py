"""Facts about parameters: all that the choice of a rule depends on, as plain data.

They are read from the modules of the model, and can be sent: under pipeline parallelism no process
has all the modules, but each must come to the rules of the whole model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gradopt_ds.optim.families import FUSED_NAMES, known_weights, library_class, stacked_experts
from gradopt_ds.optim.heads import heads_of_projection
from gradopt_ds.optim.splits import Inside

Owner = Literal["embedding", "table", "convolution", "linear", "head", "router", "other"]
"""What a module that a parameter belongs to is; a table is an embedding that no index is looked up
in: positions of a picture's patches, a class token."""

EXPERTS = frozenset({"experts", "deepspeed_experts", "deepspeed_moe"})
"""What a module that routes tokens calls its experts."""

ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "coefficient"})
"""What it calls the layers that choose and weigh them."""

HEAD_NAMES = frozenset(
    {"lm_head", "embed_out", "output", "output_layer", "head", "classifier", "score", "unembed"}
)
"""Last component of the names that output heads go by in the common model libraries."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
MEGATRON: Mapping[str, Owner] = {
    "VocabParallelEmbedding": "embedding",
    "ColumnParallelLinear": "linear",
    "RowParallelLinear": "linear",
}
"""Names of classes that stand for torch's where ranks have shards of the weights."""

REMEMBERED = "gradopt_ds_facts"
"""Attribute of a parameter whose facts were read before its module was replaced."""


@dataclass(frozen=True)
class ParameterFacts:
    """What is known of a parameter before a rule is chosen.

    Attributes:
        name: in the whole model.
        shape: of the whole parameter.
        owners: what the modules are that it belongs to; more than one if it is tied.
        in_block: whether it lies in one of several numbered layers.
        inside: which matrices lie in it, as its module says; ``None`` if it does not say.
        unclear: it is called like a weight that holds several matrices, and nobody says which; or
            what its module says does not add up to its shape.
        heads: outputs of each head, in order, where it is a projection to heads.
    """

    name: str
    shape: tuple[int, ...]
    owners: frozenset[Owner]
    in_block: bool
    inside: Inside | None = None
    unclear: bool = False
    heads: tuple[int, ...] = ()

    @property
    def may_be_head(self) -> bool:
        """Tell whether a layer of several, with the shape of an embedding, may be an output head.

        A pipeline and ``nn.Sequential`` number their head too; ``layers.0.qkv`` is none.
        """
        path = self.name.split(".")[:-1]
        return path[0].isdigit() or path[-1].isdigit() or path[-1] in HEAD_NAMES

    def split_by_heads(self) -> list[int]:
        """Return the outputs of each head.

        Raises:
            ValueError: they are not known.
        """
        if self.heads:
            return list(self.heads)
        if self.inside is None or not self.inside.heads:
            raise ValueError(
                "its module does not say that its rows are those of heads (the output projection "
                "of an attention has them in its columns); write the rows of each, or how many"
            )
        inside = self.inside
        return list(inside.heads) * (inside.groups * sum(inside.sizes) // sum(inside.heads))


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
    known = _known_weights(model)
    heads = _heads(model)
    facts: dict[Tensor, ParameterFacts] = {}
    for param, name in names.items():
        if remembered := getattr(param, REMEMBERED, None):
            facts[param] = remembered
            continue
        owners: set[Owner] = {_owner(module, head) for module in modules[param]}
        if param in routers:
            owners.add("router")
        shape, (*path, leaf) = whole_shape(param), name.split(".")
        inside = known.get(param) or stacked_experts(modules[param][0], leaf, shape)
        fits = inside is not None and inside.fits(shape)
        fused = path[-1:] and path[-1] in FUSED_NAMES and "linear" in owners and len(shape) == 2
        facts[param] = ParameterFacts(
            name,
            shape,
            frozenset(owners),
            in_numbered_layer(name),
            inside if fits else None,
            not fits and bool(fused or param in known),
            heads.get(param, ()),
        )
    return facts


def in_numbered_layer(name: str) -> bool:
    """Tell whether a module on the way to a parameter has a number for its name."""
    return any(part.isdigit() for part in name.split(".")[:-1])


def _known_weights(model: nn.Module) -> dict[Tensor, Inside | None]:
    """Collect what modules say of their weights; an attention is asked before its layers."""
    known: dict[Tensor, Inside | None] = {}
    for module in model.modules():
        for path, inside in known_weights(module):
            *submodules, leaf = path.split(".")
            owner = module
            for name in submodules:
                owner = getattr(owner, name, None)  # type: ignore[assignment]
            if isinstance(param := getattr(owner, leaf, None), Tensor):
                known.setdefault(param, inside)
    return known


def _heads(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the heads of the projections to them."""
    heads: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                outputs = whole_shape(child.weight)[0]
                heads[child.weight] = heads_of_projection(module, name, outputs)
    return heads


def _owner(module: nn.Module, head: nn.Module | None) -> Owner:
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if module is head:
        return "head"
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    for known in type(module).__mro__:
        if known.__name__ in MEGATRON:
            return MEGATRON[known.__name__]
    return "table" if (library_class(module) or "").endswith("Embeddings") else "other"


def _routers(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of what stands beside experts and chooses among them."""
    for module in model.modules():
        if EXPERTS.intersection(children := dict(module.named_children())):
            for name in ROUTERS.intersection(children):
                yield from children[name].parameters()
