r"""What the forward pass keeps for the backward pass, in closed form.

After Korthikanti et al. (arXiv 2205.05198, section 4.1), who count the tensors that autograd saves
in GPT's layer to be :math:`sbh(34 + 5as/h)` bytes; attention that is fused keeps no
:math:`5as/h`. Counted anew here for the layers of transformers, whose RMSNorm, rotary embedding and
SwiGLU keep other tensors. For T = micro batch x sequence length tokens, activations of e bytes,
hidden size h, intermediate size f, a heads of d, k of them for keys, a LLaMA layer keeps

.. math::
    T\,[\,2(4h + 4 + 2eh) + e\,d\,(2a + 2k) + 4a + 4ef\,]

bytes: two norms (input in float32, root, normalised, scaled); queries, keys, values, output and the
logarithm of the sum; gate, up, silu and their product. Recomputing layers keeps ``eh`` of each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradopt_ds.memory.setup import Setup

FLOAT, INDEX = 4, 8


@dataclass(frozen=True)
class Share:
    """What a pipeline stage has of a model.

    Attributes:
        layers: of it.
        first: whether the embedding is one of its modules.
        last: whether norm, head and loss are.
        in_flight: micro batches whose activations it keeps at a time.
    """

    layers: int
    first: bool = True
    last: bool = True
    in_flight: int = 1


def forward_bytes(config: Any, setup: Setup, share: Share | None = None) -> int:
    """Count the bytes kept at the end of the forward pass, parameters left out.

    Args:
        config: transformers' config of a LLaMA or a Qwen2MoE.
        setup: batch, sequence, precision, checkpointing; of tensor-parallel ranks the largest.
        share: of a pipeline stage; by default of the whole model.

    Raises:
        ValueError: the layers of this ``model_type`` have not been counted.
    """
    e, tokens = setup.dtypes.weights.itemsize, _tokens(setup)
    share = share or Share(config.num_hidden_layers)
    h = config.hidden_size
    rotary = 0 if setup.checkpointing else 2 * e * setup.sequence_length * _head_size(config)
    layer = tokens * e * h if setup.checkpointing else _layer_bytes(config, setup)
    # Token numbers, the last norm, the logarithm of the softmax, and the labels.
    begin = tokens * INDEX * share.first
    end = tokens * (_norm(h, e) + FLOAT * config.vocab_size + INDEX) * share.last
    return share.in_flight * (share.layers * layer + begin + end) + rotary


def peak_bytes(config: Any, setup: Setup, share: Share | None = None) -> int:
    """Return the most bytes at a time: the logits, in their dtype and in float32, or a gradient.

    Where layers are recomputed, one of them exists whole besides.
    """
    e = setup.dtypes.weights.itemsize
    share = share or Share(config.num_hidden_layers)
    logits = _tokens(setup) * config.vocab_size * (e + FLOAT) * share.last
    recomputed = _layer_bytes(config, setup) * bool(share.layers) if setup.checkpointing else 0
    return forward_bytes(config, setup, share) + max(logits, recomputed)


def _tokens(setup: Setup) -> int:
    return setup.micro_batch * setup.sequence_length


def _head_size(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _norm(h: int, e: int) -> int:
    return FLOAT * h + FLOAT + 2 * e * h


def _layer_bytes(config: Any, setup: Setup) -> int:
    if config.model_type not in FEED_FORWARD:
        raise ValueError(
            f"the activations of model_type {config.model_type!r} have not been counted; known are "
            f"{', '.join(FEED_FORWARD)}"
        )
    e, ranks = setup.dtypes.weights.itemsize, setup.tensor_parallel
    key_heads = -(-config.num_key_value_heads // ranks)
    heads = config.num_attention_heads * key_heads // config.num_key_value_heads
    attention = 2 * e * _head_size(config) * (heads + key_heads) + FLOAT * heads
    feed_forward = FEED_FORWARD[config.model_type](config, e, ranks)
    return _tokens(setup) * (2 * _norm(config.hidden_size, e) + attention + feed_forward)


def _swiglu(config: Any, e: int, ranks: int) -> int:
    return 4 * e * -(-config.intermediate_size // ranks)


def _experts(config: Any, e: int, _: int) -> int:
    """Count the router, the shared expert with its gate, and the chosen experts' tensors."""
    h, chosen = config.hidden_size, config.num_experts_per_tok
    shared = 4 * e * config.shared_expert_intermediate_size + e * (h + 1)
    each = 4 * INDEX + e * (2 * h + 4 * config.moe_intermediate_size + 1)
    return FLOAT * config.num_experts + shared + chosen * each


FEED_FORWARD: Mapping[str, Callable[[Any, int, int], int]] = {
    "llama": _swiglu,
    "qwen2_moe": _experts,
}
"""Bytes per token of the second half of a layer, by transformers' ``model_type``. AutoTP cuts no
stacked experts."""
