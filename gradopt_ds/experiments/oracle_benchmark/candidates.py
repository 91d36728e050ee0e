"""The oracles that are compared, and torch's own Newton-Schulz beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from deepspeed.runtime.zero.muon import original_muon
from torch import Tensor
from torch.optim import _muon

from gradopt_ds.ops import make_oracle
from gradopt_ds.ops.oracles.newton_schulz import MUON, quintic_flops
from gradopt_ds.ops.oracles.precision import DTYPES

BASELINE = "newton_schulz 5"
TORCH_MUON = "torch.optim.Muon's"

SPECS: dict[str, Mapping[str, object]] = {
    BASELINE: {"type": "newton_schulz"},
    "gram_newton_schulz 5": {"type": "gram_newton_schulz"},
    "cubic 15": {"type": "newton_schulz", "coefficients": [1.5, -0.5, 0.0], "steps": 15},
    "polar_express 5": {"type": "polar_express"},
    "polar_express 8": {"type": "polar_express", "steps": 8},
    "gram_polar_express 5": {"type": "gram_polar_express"},
    "gram_polar_express 8": {"type": "gram_polar_express", "steps": 8},
    "coupled 10, beta 0.8": {"type": "coupled_newton_schulz"},
    "coupled 20, beta 0.5": {"type": "coupled_newton_schulz", "beta": 0.5, "steps": 20},
    "nsds": {"type": "nsds"},
    "adaptive": {"type": "adaptive"},
    "eigh": {"type": "eigh"},
    "eigh float32": {"type": "eigh", "dtype": "float32"},
    "svd": {"type": "svd"},
    "svd float32": {"type": "svd", "dtype": "float32"},
    "qdwh float32": {"type": "qdwh"},
    "qdwh float64": {"type": "qdwh", "dtype": "float64"},
    "zolo_pd": {"type": "zolo_pd"},
}


@dataclass(frozen=True)
class Candidate:
    """A way to the polar factor.

    Attributes:
        name: a name for people.
        run: matrices ``[..., m, n]`` in float32 → polar factors.
        flops: floating-point operations for one ``m x n`` matrix.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    flops: Callable[[int, int], int]


def candidates(dtypes: Sequence[str] = ()) -> list[Candidate]:
    """List all of them, the baseline first.

    Args:
        dtypes: compute dtypes in which oracles also run that offer them and have none in their
            name.
    """
    oracles = {name: make_oracle(spec) for name, spec in SPECS.items()}
    for name, spec in SPECS.items():
        for dtype in dtypes:
            if "dtype" not in spec and DTYPES[dtype] in oracles[name].dtypes:
                oracles[f"{name} {dtype}"] = make_oracle({**spec, "dtype": dtype})
    ours = [Candidate(name, oracle, oracle.flops) for name, oracle in oracles.items()]
    return [*ours, Candidate(TORCH_MUON, torch_muon, _quintic_flops)]


def deepspeed_candidates() -> list[Candidate]:
    """List DeepSpeed's two; torch compiles them when they are first called, for every shape."""
    gram = make_oracle("gram_newton_schulz")
    return [
        Candidate("DeepSpeed's standard", _deepspeed(original_muon.zeropower_via_newtonschulz5),
                  _quintic_flops),
        Candidate("DeepSpeed's gram", _deepspeed(original_muon.zeropower_via_gram_newtonschulz),
                  gram.flops),
    ]  # fmt: skip


def _deepspeed(iteration: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda g: iteration(g, steps=5).float()


def torch_muon(g: Tensor) -> Tensor:
    """Apply torch's Newton-Schulz in bfloat16, matrix by matrix, as its optimizer calls it."""
    matrices = g.reshape(-1, *g.shape[-2:])
    factors = [_muon._zeropower_via_newtonschulz(m.clone(), MUON, 5, 1e-7) for m in matrices]
    return torch.stack(factors).reshape(g.shape).float()


def _quintic_flops(m: int, n: int) -> int:
    return 5 * quintic_flops(min(m, n), max(m, n))
