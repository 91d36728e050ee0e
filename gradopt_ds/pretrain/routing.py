"""What a mixture of experts does with its tokens: load of the experts, and the router's loss."""

from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor

from gradopt_ds.pretrain.metrics import Row


def language_loss(outputs: Any, config: Any) -> Tensor:
    """Nats per token, without the router's auxiliary loss, which ``outputs.loss`` contains.

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
        device: where the counts are kept.
    """

    def __init__(self, config: Any, device: torch.device) -> None:
        self._choices: int = getattr(config, "num_experts_per_tok", 0) or 0
        self._device = device
        self._counts: Tensor | None = None  # [layers, experts]
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # passes, loss, choices

    def add(self, outputs: Any) -> None:
        """Take one forward pass into account; dense models have nothing to count."""
        logits = getattr(outputs, "router_logits", None)
        if not logits:
            return
        # Softmax keeps the order, so the largest logits are the choices.
        counts = torch.stack(
            [
                torch.bincount(one.topk(self._choices).indices.flatten(), minlength=one.shape[-1])
                for one in (layer.detach() for layer in logits)
            ]
        )
        self._counts = counts if self._counts is None else self._counts + counts
        wanted = self._choices * sum(layer.shape[0] for layer in logits)
        self._sums += torch.tensor([1.0, float(outputs.aux_loss.detach()), wanted]).to(self._sums)

    def row(self) -> Row:
        """The step's columns, over all ranks; empty for a dense model. Collective for mixtures.

        Returns:
            ``router_loss``: the load-balancing loss, before its coefficient; it is at its least,
            the number of choices, when the load is even. ``load_max_over_mean``: tokens of the
            busiest expert of a layer over the mean, in the layer where that is largest.
            ``idle_experts``: how many, over all layers, got no token. ``dropped_tokens``: choices
            that no expert computed. ``expert_load``: for each layer each expert's share of the
            choices.
        """
        if self._counts is None:
            return {}
        counts = self._counts.double()
        dist.all_reduce(counts)
        dist.all_reduce(self._sums)
        passes, loss, wanted = self._sums.tolist()
        return {
            "router_loss": loss / passes,
            "load_max_over_mean": float((counts.amax(1) / counts.mean(1)).max()),
            "idle_experts": int((counts == 0).sum()),
            "dropped_tokens": int(wanted - counts.sum()),
            "expert_load": (counts / counts.sum(1, keepdim=True)).tolist(),
        }
