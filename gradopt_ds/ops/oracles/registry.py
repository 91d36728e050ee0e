"""Oracles by name, as JSON writes them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from gradopt_ds.ops.oracles.adaptive import Adaptive
from gradopt_ds.ops.oracles.coupled_newton_schulz import CoupledNewtonSchulz
from gradopt_ds.ops.oracles.exact import SVD, Eigh
from gradopt_ds.ops.oracles.gram_newton_schulz import GramNewtonSchulz
from gradopt_ds.ops.oracles.gram_polar_express import GramPolarExpress
from gradopt_ds.ops.oracles.newton_schulz import NewtonSchulz
from gradopt_ds.ops.oracles.nsds import NSDS
from gradopt_ds.ops.oracles.oracle import Oracle, require
from gradopt_ds.ops.oracles.polar_express import PolarExpress
from gradopt_ds.ops.oracles.precision import DTYPES
from gradopt_ds.ops.oracles.qdwh import QDWH
from gradopt_ds.ops.oracles.zolo_pd import ZoloPD

ORACLES: dict[str, type[Oracle]] = {
    oracle.name: oracle
    for oracle in (
        SVD,
        Eigh,
        Adaptive,
        QDWH,
        ZoloPD,
        NewtonSchulz,
        GramNewtonSchulz,
        PolarExpress,
        GramPolarExpress,
        CoupledNewtonSchulz,
        NSDS,
    )
}


def make_oracle(spec: str | Mapping[str, object] | Oracle) -> Oracle:
    """Make an oracle from its name, or from a mapping with its name and options.

    Args:
        spec: ``"polar_express"``; ``{"type": "polar_express", "steps": 8, "dtype": "bfloat16"}``;
            or an oracle, which is returned as it is.

    Raises:
        ValueError: an unknown name or option, or a value of wrong type or range; the message
            lists what is valid.
    """
    if isinstance(spec, Oracle):
        return spec
    valid = isinstance(spec, (str, Mapping))
    require(valid, "oracle", 'a name or a mapping {"type": name, ...}', spec)
    options: dict[str, Any] = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("type", None)
    known = isinstance(name, str) and name in ORACLES
    require(known, "oracle type", f"one of {', '.join(ORACLES)}", name)
    oracle = ORACLES[name]
    valid_options = [field.name for field in fields(oracle)]
    for option in options:
        require(option in valid_options, f"option of {name}", f"one of {valid_options}", option)
    try:
        return oracle(**{option: _from_json(value) for option, value in options.items()})
    except ValueError as error:
        raise ValueError(f"oracle {name}: {error}") from error


def oracle_spec(oracle: Oracle) -> dict[str, Any]:
    """Return the mapping that :func:`make_oracle` makes an oracle from, as plain data."""
    options = {field.name: _to_json(getattr(oracle, field.name)) for field in fields(oracle)}
    return {"type": oracle.name, **options}


def _from_json(value: Any) -> Any:
    """Convert what JSON writes otherwise: lists to tuples, names to dtypes."""
    if isinstance(value, list):
        return tuple(value)
    return DTYPES.get(value, value) if isinstance(value, str) else value


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    names = {dtype: name for name, dtype in DTYPES.items()}
    return names[value] if isinstance(value, torch.dtype) else value
