"""A language model with a DeepSpeed MoE layer, its experts on their own ranks or on all."""

import torch
from deepspeed.moe.layer import MoE
from torch import Tensor, nn

HIDDEN, INNER, VOCABULARY = 12, 7, 37
EXPERTS_PER_RANK = 3
"""Two ranks that share three equal experts cut the second one, in its square matrix."""


class Expert(nn.Module):
    """Wide, square, tall, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(HIDDEN, INNER)
        self.square = nn.Linear(INNER, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Three layers."""
        return self.down(torch.tanh(self.square(torch.tanh(self.up(x)))))


class ExpertLM(nn.Module):
    """Embedding, a dense layer, a mixture, untied head; returns the loss, the gate's included.

    Args:
        experts: their number.
        ep_size: ranks over which they are spread.
    """

    def __init__(self, experts: int, ep_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.dense = nn.Linear(HIDDEN, HIDDEN)
        # No randomness and no token dropped, so that one process can compute the same.
        self.mixture = MoE(
            HIDDEN,
            Expert(),
            num_experts=experts,
            ep_size=ep_size,
            k=2,
            drop_tokens=False,
            use_rts=False,
            top2_2nd_expert_sampling=False,
        )
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token cross-entropy of ``tokens`` ``[samples, length]``."""
        x = torch.tanh(self.dense(self.embed(tokens[:, :-1])))
        mixed, gate_loss, _ = self.mixture(x)
        logits = self.lm_head(x + mixed).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        return loss + 0.01 * gate_loss


STACK = "mixture.deepspeed_moe.experts.deepspeed_experts"


def matrices(experts: int) -> frozenset[str]:
    """What must get the matrix rule; experts by their number in the whole model."""
    stacked = {
        f"{STACK}.{e}.{name}.weight" for e in range(experts) for name in ("up", "square", "down")
    }
    return frozenset({"dense.weight", *stacked})


def global_name(name: str, ep_rank: int) -> str:
    """A parameter's name, its expert counted over all ranks."""
    if not name.startswith(f"{STACK}."):
        return name
    local, rest = name.removeprefix(f"{STACK}.").split(".", 1)
    return f"{STACK}.{ep_rank * EXPERTS_PER_RANK + int(local)}.{rest}"


def build_expert_model(experts: int, ep_size: int = 1, ep_rank: int = 0) -> ExpertLM:
    """Weights that depend on the global name only."""
    model = ExpertLM(experts, ep_size)
    for name, param in model.named_parameters():
        seed = sum(map(ord, global_name(name, ep_rank)))
        nn.init.normal_(param, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model
