"""A transformer with fresh weights from a JSON file."""

from collections.abc import Mapping
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from gradopt_ds.experiments.common.errors import PretrainError, reason
from gradopt_ds.experiments.common.json_file import load
from gradopt_ds.optim.facts import whole_shape

_OTHER_KEYS = ("torch_dtype", "rope_theta", "rope_scaling", "use_return_dict", "auto_map")
"""What transformers also reads, or writes into a published config.json."""


def model_config(
    path: Path,
    vocab_size: int | None = None,
    sequence_length: int = 0,
    attention: str | None = None,
) -> PretrainedConfig:
    """Return the transformers config in ``path``, with the tokenizer's vocabulary if one is given.

    Args:
        path: of the model's JSON.
        vocab_size: of the tokenizer.
        sequence_length: of the longest sequence.
        attention: transformers' name of an implementation; None leaves the choice to it.

    Raises:
        PretrainError: unknown ``model_type`` or key, sequences longer than the model's positions,
            a load-balancing loss that would not be computed, or values that make no model.
    """
    values = load(path)
    kind = values.pop("model_type", None)
    if kind is None:
        raise PretrainError(f'{path} has no "model_type": add one, e.g. "llama"')
    try:
        config = AutoConfig.for_model(kind, **values)
    except Exception as error:  # transformers has several validators
        raise PretrainError(f"{path}: {reason(error)}") from None
    _refuse_unknown_keys(path, kind, values)
    if vocab_size is not None:
        config.vocab_size = vocab_size
    if getattr(config, "router_aux_loss_coef", 0) and not config.output_router_logits:
        raise PretrainError(
            f'{path} has experts, and without "output_router_logits": true transformers leaves '
            'their load-balancing loss out: add it, or set "router_aux_loss_coef": 0.0'
        )
    positions = getattr(config, "max_position_embeddings", None)  # not every model counts them
    if positions is not None and sequence_length > positions:
        raise PretrainError(
            f"--sequence-length {sequence_length} exceeds max_position_embeddings "
            f"{positions} of {path}: shorten the one or raise the other"
        )
    if attention is not None:
        config._attn_implementation = attention
    try:
        on_meta(config)
    except Exception as error:  # torch's, for sizes that make no tensor, or transformers'
        by = f" with --attention {attention}" if attention else ""
        raise PretrainError(
            f"{path} makes no model{by}: {type(error).__name__}: {reason(error)}"
        ) from None
    return config


def _refuse_unknown_keys(path: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Refuse unknown keys, which transformers keeps as attributes that no model reads."""
    default = AutoConfig.for_model(kind)
    valid = {*default.to_dict(), *default.attribute_map, *_OTHER_KEYS}
    problems = []
    for key in (key for key in values if key not in valid):
        near = get_close_matches(key, valid, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        problems.append(f"{key!r}{guess}")
    if problems:
        raise PretrainError(f"{path}: a {kind} has no key {'; no '.join(problems)}")


def build(
    config: PretrainedConfig,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Return the model with weights that depend on the arguments only.

    Args:
        config: of the model.
        seed: of the weights.
        dtype: of the weights.
        device: where they are drawn; a GPU draws other ones than the CPU, and billions in no time.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model = _fresh(config, dtype)
    model.config.use_cache = False
    model.train()
    return model


def parameter_count(config: PretrainedConfig) -> int:
    """Count the parameters of the model, tied ones once, counted without allocating them."""
    return sum(parameter.numel() for parameter in on_meta(config).parameters())


def active_parameter_count(model: PreTrainedModel) -> int:
    """Count the parameters that a token goes through: of routed experts those that it chooses.

    Embeddings, output head and shared experts count whole. Equals :func:`parameter_count` for a
    dense model. The model may be on the meta device, or partitioned by ZeRO.
    """
    shapes = {name: whole_shape(parameter) for name, parameter in model.named_parameters()}
    count = sum(map(prod, shapes.values()))
    routed = sum(prod(s) for name, s in shapes.items() if ".experts." in name and len(s) == 3)
    if not routed:
        return count
    config = model.config
    experts = getattr(config, "num_experts", None) or config.num_local_experts
    return count - routed + routed * config.num_experts_per_tok // experts


def on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model without weights: names, shapes and module types only."""
    with torch.device("meta"):
        return _fresh(config)


def _fresh(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config, dtype=dtype)
