"""A model of transformers' layers with interwoven and with transposed matrices in their weights."""

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPTNeoXConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from tests.reference import Array

HIDDEN, HEADS, INNER, VOCABULARY = 12, 3, 20, 37
SIZE = HIDDEN // HEADS
NEOX = GPTNeoXConfig(
    hidden_size=HIDDEN, num_attention_heads=HEADS, attention_bias=False, attention_dropout=0.0
)
GPT2 = GPT2Config(n_embd=HIDDEN, n_head=HEADS, n_inner=INNER, attn_pdrop=0.0, resid_pdrop=0.0)
for _config in (NEOX, GPT2):
    _config._attn_implementation = "eager"


class InterwovenLM(nn.Module):
    """GPT-NeoX's attention, GPT-2's attention and MLP; returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.neox = GPTNeoXAttention(NEOX, layer_idx=0)
        self.gpt2 = GPT2Attention(GPT2, layer_idx=0)
        self.mlp = GPT2MLP(INNER, GPT2)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        # A bias of keys has no gradient but rounding, which AdamW would make full steps of.
        del self.gpt2.c_attn.bias
        self.gpt2.c_attn.register_buffer("bias", torch.zeros(3 * HIDDEN))

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        x = self.embed(tokens[:, :-1])
        rotary = torch.ones(1, x.shape[1], SIZE).to(x), torch.zeros(1, x.shape[1], SIZE).to(x)
        mask = torch.full((x.shape[1],) * 2, -30.0).triu(1).to(x)[None, None]
        x = x + self.neox(x, mask, position_embeddings=rotary)[0]
        x = x + self.gpt2(x, attention_mask=mask)[0]
        logits = self.lm_head(x + self.mlp(x)).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def per_head(w: Array) -> list[Array]:
    """Rows of queries, keys and values alternate, head by head."""
    heads = w.reshape(HEADS, 3, SIZE, HIDDEN)
    return [heads[:, part] for part in range(3)]


def transposed(w: Array) -> list[Array]:
    """Stored as ``[inputs, outputs]``."""
    return [w.T]


def transposed_thirds(w: Array) -> list[Array]:
    """Columns of queries, then of keys, then of values."""
    return [w[:, first : first + HIDDEN].T for first in range(0, 3 * HIDDEN, HIDDEN)]


def whole(w: Array) -> list[Array]:
    """A linear layer's weight is one matrix."""
    return [w]


MATRICES = {
    "neox.query_key_value.weight": per_head,
    "neox.dense.weight": whole,
    "gpt2.c_attn.weight": transposed_thirds,
    "gpt2.c_proj.weight": transposed,
    "mlp.c_fc.weight": transposed,
    "mlp.c_proj.weight": transposed,
}
"""What must get the matrix rule, and the matrices in it, written down by hand."""


def build_interwoven(seed: int = 0) -> InterwovenLM:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = InterwovenLM()
    for param in model.parameters():
        nn.init.normal_(param, std=0.4)
    return model
