"""A language model with awkward shapes, small enough for float64 SVDs in a test."""

import torch
from torch import Tensor, nn

VOCABULARY, HIDDEN = 37, 12
SAMPLES, LENGTH = 8, 13
"""Tokens a micro-batch; more than any matrix has rows, so that gradients have full rank."""


class Block(nn.Module):
    """Tall, wide, odd and square matrices, with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.square = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.up = nn.Linear(HIDDEN, 23)
        self.odd = nn.Linear(23, 7, bias=False)
        self.down = nn.Linear(7, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        h = torch.tanh(self.square(self.norm(x)))
        return x + self.down(torch.tanh(self.odd(torch.tanh(self.up(h)))))


class TinyLM(nn.Module):
    """Embedding, two blocks, untied head; returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        x = self.embed(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(x).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


MATRICES = frozenset(
    f"blocks.{i}.{name}.weight" for i in range(2) for name in ("square", "up", "odd", "down")
)
"""What must get the matrix rule, written down by hand."""


def build_model(seed: int = 0) -> TinyLM:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = TinyLM()
    for name, param in model.named_parameters():
        # Far enough from zero that decay matters, small enough that tanh does not saturate: the
        # polar factor magnifies float32's rounding by the condition number of the gradient.
        nn.init.normal_(param, mean=float(name.endswith("norm.weight")), std=0.2)
    return model


def micro_batch(step: int, micro: int, rank: int) -> Tensor:
    """Tokens ``[SAMPLES, LENGTH]`` of one rank's micro-batch."""
    generator = torch.Generator().manual_seed(1000 * step + 100 * micro + rank)
    return torch.randint(VOCABULARY, (SAMPLES, LENGTH), generator=generator)
