"""How many outputs of an attention's projection each head has, as its module says."""

from typing import Any

from torch import nn

from gradopt_ds.optim.families import library_class

PROJECTIONS = frozenset(
    {"q_proj", "k_proj", "v_proj", "q_b_proj", "query", "key", "value", "query_proj", "key_proj"}
    | {"value_proj", "q_lin", "k_lin", "v_lin", "q", "k", "v", "q_attn"}
)
"""What projections to heads are called."""

HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
HEAD_COUNTS = (
    *("num_heads", "num_attention_heads", "n_heads", "n_head", "num_key_value_heads"),
    *("num_kv_heads", "decoder_attention_heads", "encoder_attention_heads"),
)


def heads_of_projection(attention: nn.Module, name: str, outputs: int) -> tuple[int, ...]:
    """Return the outputs of each head; nothing if it is not known.

    Args:
        attention: the module that the projection is a child of.
        name: of the projection in it.
        outputs: of the projection.
    """
    if name not in PROJECTIONS or library_class(attention) is None:
        return ()
    size = next((s for s in (getattr(attention, n, None) for n in HEAD_SIZES) if s), None)
    if not isinstance(size, int) or outputs % size:
        return ()
    numbers: tuple[Any, ...] = (attention, getattr(attention, "config", None))
    counts = {getattr(source, n, None) for source in numbers for n in HEAD_COUNTS}
    return (size,) * (outputs // size) if outputs // size in counts else ()
