"""The ``"optimizer"`` block of a DeepSpeed JSON → an optimizer; every mistake is explained."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.optim import AdamW, Optimizer

from gradopt_ds.integration.adamw_keys import HANDED_ON, handed_on, lent_to_aux, refuse_auto
from gradopt_ds.integration.registry import (
    GRAD_POWER,
    OPTIMIZERS,
    POWER,
    Entry,
    bases,
    canonical_name,
    names,
)
from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.optim import GradPower, MatrixOptimizer, matrix_param_groups
from gradopt_ds.optim.aux_adamw import has_fused_kernel
from gradopt_ds.optim.facts import ParameterFacts
from gradopt_ds.optim.param_groups import MATRIX
from gradopt_ds.optim.settings import AuxAdamW, Positive
from gradopt_ds.optim.splits import Split

EXCHANGE_KEYS = frozenset(ExchangeSettings.model_fields)
"""Keys of a matrix optimizer's ``params`` that are not the optimizer's, but the exchange's."""

PATTERNS: Mapping[str, Any] = {
    "include": list[str],
    "exclude": list[str],
    "split": dict[str, Split],
}
"""Keys of a matrix optimizer's ``params`` that say which parameters are matrices, and how."""

HINTS = {
    "max_grad_norm": ' (clip with DeepSpeed\'s own "gradient_clipping")',
    "ns_steps": ' (write "oracle": {"type": "newton_schulz", "steps": …})',
}
"""What a message adds to an unknown key that other libraries have."""


def build_optimizer(
    name: str,
    params: Mapping[str, Any] | None,
    model: nn.Module,
    model_parameters: Iterable[torch.Tensor] | Iterable[Mapping[str, Any]],
    elsewhere: Sequence[ParameterFacts] = (),
) -> Optimizer:
    """Build the optimizer that a DeepSpeed JSON names.

    Args:
        name: the optimizer's ``type``, in any case.
        params: the optimizer's ``params``; what they say of the exchange goes to the optimizer's
            attribute ``exchange``.
        model: the model, to tell matrices from other parameters.
        model_parameters: parameters or groups to update.
        elsewhere: see :func:`gradopt_ds.optim.param_groups.assign_rules`. Whether the model has any
            matrix is then for the caller to find out.

    Raises:
        ValueError: an unknown name or key, a value of wrong type or range, or a pattern that
            matches nothing. The message lists what is valid.
    """
    known = canonical_name(name)
    settings = dict(params or {})
    refuse_auto(known or name, settings)
    if known == GRAD_POWER:
        return _grad_power(settings, model, model_parameters, elsewhere)
    if known is None:
        raise ValueError(f"unknown optimizer {name!r}; valid: {_list(names())}")
    entry = OPTIMIZERS[known]
    _refuse_unknown(known, settings, [*_valid_keys(entry.optimizer), "power"])
    power = _positive(known, "power", settings.pop("power", entry.power))
    optimizer = _construct(known, entry, settings, model, model_parameters, elsewhere)
    return optimizer if entry.power == power == 1.0 else GradPower(optimizer, power)


def _grad_power(
    settings: dict[str, Any], model: nn.Module, parameters: Any, elsewhere: Sequence[ParameterFacts]
) -> Optimizer:
    _refuse_unknown(GRAD_POWER, settings, ["power", "base", *HANDED_ON])
    base = settings.get("base")
    if not isinstance(base, Mapping) or not isinstance(base.get("type"), str):
        raise ValueError(
            f'{GRAD_POWER} needs "base": {{"type": name, "params": {{…}}}}, got {base!r}'
        )
    _refuse_unknown(f"{GRAD_POWER}'s base", base, ["type", "params"])
    entry = {known.lower(): entry for known, entry in bases().items()}.get(base["type"].lower())
    if entry is None:
        raise ValueError(f"{GRAD_POWER}: unknown base {base['type']!r}; valid: {_list(bases())}")
    label = f"{GRAD_POWER}'s base {base['type']}"
    base_settings = dict(base.get("params") or {})
    if "power" in base_settings:
        raise ValueError(f'{label}: write "power" once, in the params of {GRAD_POWER}')
    valid = _valid_keys(entry.optimizer)
    _refuse_unknown(label, base_settings, valid)
    _checked(GRAD_POWER, AuxAdamW, {k: settings[k] for k in HANDED_ON if k in settings})
    base_settings = handed_on(label, settings, base_settings, valid)
    power = _positive(GRAD_POWER, "power", settings.get("power", POWER))
    return GradPower(_construct(label, entry, base_settings, model, parameters, elsewhere), power)


def _construct(
    label: str,
    entry: Entry,
    settings: dict[str, Any],
    model: nn.Module,
    parameters: Any,
    elsewhere: Sequence[ParameterFacts],
) -> Optimizer:
    settings = {**entry.defaults, **settings}
    try:
        if issubclass(entry.optimizer, MatrixOptimizer):
            return _matrix_optimizer(entry.optimizer, settings, model, parameters, elsewhere)
        if entry.optimizer is AdamW:
            settings = AuxAdamW(**settings).model_dump()
        build: Any = entry.optimizer
        optimizer: Optimizer = build(parameters, **settings)
        if entry.optimizer is AdamW:
            _step_in_one_kernel(optimizer.param_groups)
    except ValidationError as error:
        raise ValueError(_explained(label, error)) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label}: {error}") from error
    return optimizer


def _step_in_one_kernel(groups: Iterable[dict[str, Any]]) -> None:
    """Let torch's AdamW take its fused step, where the weights allow it."""
    for group in groups:
        # On the meta device nothing steps but the estimate of memory, which asks for this setting.
        fits = (param.is_meta or has_fused_kernel(param) for param in group["params"])
        group["fused"] = all(fits) or None


def _matrix_optimizer(
    optimizer: type[MatrixOptimizer],
    settings: dict[str, Any],
    model: nn.Module,
    parameters: Any,
    elsewhere: Sequence[ParameterFacts],
) -> MatrixOptimizer:
    exchange = {key: settings.pop(key) for key in EXCHANGE_KEYS & settings.keys()}
    patterns = {key: settings.pop(key, kind()) for key, kind in PATTERNS.items()}
    for key, value in patterns.items():
        _checked(key, PATTERNS[key], value)
    groups = matrix_param_groups(model, parameters, **patterns, elsewhere=elsewhere)
    if not elsewhere and all(group["rule"] != MATRIX for group in groups):
        raise without_matrices(model)
    build: Any = optimizer
    built: MatrixOptimizer = build(groups, **_with_aux(optimizer, settings))
    built.exchange = _checked("exchange", ExchangeSettings, exchange)
    return built


def without_matrices(model: nn.Module) -> ValueError:
    """Return what a matrix optimizer of a model without any matrix is refused with."""
    return ValueError(
        f"{type(model).__name__} has no matrix for it, so that AdamW would update "
        "everything: name matrices in `include` (weights of an nn.Linear and of "
        "transformers' Conv1D are taken by themselves), or choose AdamW"
    )


def _with_aux(optimizer: type[MatrixOptimizer], settings: dict[str, Any]) -> dict[str, Any]:
    """Give ``aux`` what the top says of it, and a rate in place of ``lr_scale``."""
    arguments = _arguments(optimizer)
    lent = {key: settings.pop(key) for key in lent_to_aux(arguments) if key in settings}
    AuxAdamW(**lent)  # a wrong value is named as it stands, without "aux"
    own = settings.get("aux", {})
    if isinstance(own, AuxAdamW):
        own = own.model_dump(exclude_unset=True)
    if not isinstance(own, Mapping) or not (aux := {**lent, **own}):
        return settings  # as it is; the constructor says what is wrong with it
    if "lr_scale" in aux:
        if "lr" in aux:
            raise ValueError('aux: write "lr", or "lr_scale" for lr_scale times lr')
        scale = _checked("aux.lr_scale", Positive, aux.pop("lr_scale"))
        aux["lr"] = scale * _checked("lr", Positive, settings.get("lr", arguments["lr"].default))
    return {**settings, "aux": aux}


def _valid_keys(optimizer: type[Optimizer]) -> list[str]:
    if optimizer is AdamW:
        return list(AuxAdamW.model_fields)
    keys = list(_arguments(optimizer))
    if not issubclass(optimizer, MatrixOptimizer):
        return keys
    return [*keys, *lent_to_aux(keys), *PATTERNS, *EXCHANGE_KEYS]


def _arguments(optimizer: type[Optimizer]) -> dict[str, inspect.Parameter]:
    """Of its constructor, without the parameters to update."""
    arguments = dict(inspect.signature(optimizer.__init__).parameters)
    return {key: arguments[key] for key in arguments if key not in ("self", "params")}


def _refuse_unknown(label: str, given: Iterable[str], valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            hint = HINTS.get(key, "")
            raise ValueError(f"{label}: unknown key {key!r}{hint}; valid: {_list(valid)}")


def _positive(label: str, key: str, value: object) -> float:
    number: float = _checked(f"{label}: {key}", Positive, value)
    return number


def _checked(label: str, kind: Any, value: object) -> Any:
    try:
        # A model carries its strictness itself, and would refuse a second one.
        strict = ConfigDict(strict=True) if not _is_model(kind) else None
        return TypeAdapter(kind, config=strict).validate_python(value)
    except ValidationError as error:
        raise ValueError(_explained(label, error)) from error


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _explained(label: str, error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}, got {item['input']!r}"
        for item in error.errors()
    ]
    if any(item["type"] == "extra_forbidden" for item in error.errors()):
        problems.append(f"valid keys of an AdamW: {_list(list(AuxAdamW.model_fields))}")
    return f"{label}: {'; '.join(problems)}"


def _list(items: Iterable[str]) -> str:
    return ", ".join(sorted(items, key=str.lower))
