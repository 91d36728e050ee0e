"""What a mixture of experts does with its tokens: load of the experts, and the router's loss."""

from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor

from gradopt_ds.experiments.pretrain.metrics import Row


def language_loss(outputs: Any, config: Any) -> Tensor:
    """Compute the nats per token, without the router's loss, which ``outputs.loss`` contains.

    Args:
        outputs: of a transformers causal language model.
        config: the model's.
    """
    loss: Tensor = outputs.loss.detach().float()
    router: Tensor | None = getattr(outputs, "aux_loss", None)
    return loss if router is None else loss - config.router_aux_loss_coef * router.detach().float()


class ExpertLoad:
    """Counts, over the forward passes of one step, the tokens that each expert gets.

    transformers' mixtures have no capacity: every token is computed by every expert that its
    router chooses, and none is dropped. What ``row`` calls dropped is the difference of the two.

    Args:
        config: the model's.
    """

    def __init__(self, config: Any) -> None:
        self._choices: int = getattr(config, "num_experts_per_tok", 0) or 0
        self._counts: list[Tensor] = []  # of each pass [layers, experts]
        self._losses: list[Tensor] = []
        self._wanted = 0

    def add(self, outputs: Any) -> None:
        """Take one forward pass into account; dense models have nothing to count."""
        logits = getattr(outputs, "router_logits", None)
        if not logits:
            return
        # Nothing is read here: a GPU would have to be waited for.
        self._counts.append(torch.stack([self._chosen(layer.detach()) for layer in logits]))
        self._losses.append(outputs.aux_loss.detach().double())
        self._wanted += self._choices * sum(layer.shape[0] for layer in logits)

    def _chosen(self, logits: Tensor) -> Tensor:
        # Softmax keeps the order, so the largest logits are the choices.
        choices = logits.topk(self._choices).indices.flatten()
        counts = choices.new_zeros(logits.shape[-1], dtype=torch.float64)
        return counts.scatter_add_(0, choices, counts.new_ones(len(choices)))

    def row(self) -> Row:
        """Make the step's columns over all ranks; none for a dense model. Collective for mixtures.

        Returns:
            ``router_loss``: the load-balancing loss, before its coefficient; it is at its least,
            the number of choices, when the load is even. ``load_max_over_mean``: tokens of the
            busiest expert of a layer over the mean, in the layer where that is largest.
            ``idle_experts``: how many, over all layers, got no token. ``dropped_tokens``: choices
            that no expert computed. ``expert_load``: for each layer each expert's share of the
            choices.
        """
        if not self._counts:
            return {}
        counts = torch.stack(self._counts).sum(0)
        sums = torch.stack(
            [torch.stack(self._losses).mean(), counts.new_tensor(self._wanted), counts.new_ones(())]
        )
        dist.all_reduce(counts)
        dist.all_reduce(sums)
        loss, wanted, ranks = sums.tolist()
        return {
            "router_loss": loss / ranks,
            "load_max_over_mean": float((counts.amax(1) / counts.mean(1)).max()),
            "idle_experts": int((counts == 0).sum()),
            "dropped_tokens": int(wanted - counts.sum()),
            "expert_load": (counts / counts.sum(1, keepdim=True)).tolist(),
        }
