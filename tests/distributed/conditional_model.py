"""A model of which a step does not use every layer: a branch, and experts in linear layers."""

import torch
from torch import Tensor, nn

from tests.distributed.model import HIDDEN, Block, TinyLM, micro_batch
from tests.distributed.model import MATRICES as DENSE_MATRICES

BRANCH, FIRST, SECOND = "branch", "first expert", "second expert"
USED: dict[tuple[int, int], frozenset[str]] = {
    (0, 0): frozenset({BRANCH, FIRST, SECOND}),
    (0, 1): frozenset({BRANCH, FIRST}),
    (1, 0): frozenset(),
    (1, 1): frozenset({SECOND}),
    (2, 0): frozenset({BRANCH}),
    (2, 1): frozenset(),
}
"""Step and micro-batch → what it uses. Everything has a gradient from step 0; in step 1 nothing has
one, or the second expert from the second micro-batch alone; in step 2 the branch from the first."""

MOST_RANKS = 8


class Expert(nn.Module):
    """A feed-forward layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(HIDDEN, 17, bias=False)
        self.down = nn.Linear(17, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        return x + self.down(torch.tanh(self.up(x)))


class ConditionalLM(TinyLM):
    """Takes the micro-batches of ``model.micro_batch``, and knows by them which step it is.

    All ranks use the same layers: DeepSpeed's collectives want it so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.branch = Block()
        self.experts = nn.ModuleList(Expert() for _ in range(2))
        self.used = {
            tuple(micro_batch(step, micro, rank)[0].tolist()): used
            for (step, micro), used in USED.items()
            for rank in range(MOST_RANKS)
        }

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        used = self.used[tuple(tokens[0].tolist())]
        x = self.embed(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        for name, layer in zip((BRANCH, FIRST, SECOND), (self.branch, *self.experts), strict=True):
            if name in used:
                x = layer(x)
        logits = self.lm_head(x).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


CONDITIONAL = frozenset(
    {
        *(f"branch.{name}.weight" for name in ("square", "up", "odd", "down")),
        *(f"experts.{i}.{name}.weight" for i in range(2) for name in ("up", "down")),
    }
)
"""Matrices that some steps do not use, written down by hand."""

MATRICES = DENSE_MATRICES | CONDITIONAL
"""What must get the matrix rule."""


def build_conditional(seed: int = 0) -> ConditionalLM:
    """The same weights on every rank and in every case."""
    torch.manual_seed(seed)
    model = ConditionalLM()
    for name, param in model.named_parameters():
        nn.init.normal_(param, mean=float(name.endswith("norm.weight")), std=0.2)
    return model
