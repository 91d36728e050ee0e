"""A model of `transformers` that starts from torch's default weights instead of its own."""

import logging

from torch import Tensor, nn

from gradopt_ds.integration.log import log_on_rank_0

LARGEST_RANGE = 0.2
"""A config with a larger ``initializer_range`` may mean an embedding like torch's default."""

SAMPLE = 2**20
"""Elements that are looked at: enough for a standard deviation to 0.1 %."""


def warn_of_default_weights(model: nn.Module) -> None:
    """Warn on rank 0 about embeddings that a model's constructor has left as torch made them.

    Under ``deepspeed.zero.Init`` the models of `transformers` 5 come out like that.

    Args:
        model: any; only one whose config has an ``initializer_range`` is judged.
    """
    names = default_embeddings(model)
    if names:
        log_on_rank_0(
            "gradopt_ds: WARNING: %s: standard deviation 1, torch's default, where the config's "
            "initializer_range says %g. Under deepspeed.zero.Init transformers does not initialise "
            "a model that is built from a config, and the loss starts far above log(vocabulary); "
            "see 'Building a model from scratch' in docs/zero.md",
            ", ".join(names),
            _initializer_range(model),
            level=logging.WARNING,
        )


def default_embeddings(model: nn.Module) -> list[str]:
    """List the names of embeddings drawn from torch's default, the standard normal distribution.

    Trained embeddings have a standard deviation of 0.01 to 0.1, so loaded weights are not named. Of
    a weight that ZeRO has cut, the part on this rank is looked at; nothing is gathered.
    """
    if not 0 < _initializer_range(model) <= LARGEST_RANGE:
        return []
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _is_standard_normal(module.weight)
    ]


def _initializer_range(model: nn.Module) -> float:
    """Zero if the model says nothing."""
    intended = getattr(getattr(model, "config", None), "initializer_range", None)
    return float(intended) if isinstance(intended, float | int) else 0.0


def _is_standard_normal(weight: Tensor) -> bool:
    here: Tensor = getattr(weight, "ds_tensor", weight)
    sample = here.detach().flatten()[:SAMPLE].float()
    return len(sample) > 1 and 0.9 < float(sample.std()) < 1.1
