"""The JSON surface: what it builds and what it refuses."""

import json
import re
from typing import Any

import pytest
import torch
from torch.optim import AdamW
from transformers import GPT2Config, GPT2LMHeadModel

from gradopt_ds import SWAN, GradPower, MatrixOptimizer, Muon, PolarGrad, SinkGD
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.registry import canonical_name
from gradopt_ds.matrices import ExchangeSettings
from tests.conftest import ROOT
from tests.distributed.model import build_model

PAGE = (ROOT / "docs" / "optimizers.md").read_text()
JSON_BLOCKS = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTED = {
    block["type"]: block["params"]
    for text in JSON_BLOCKS
    for block in map(json.loads, re.split(r"\n(?=\{)", text))
}
"""Optimizer type → ``"params"`` as the page shows them."""


def build(name: str, params: dict[str, Any] | None = None) -> torch.optim.Optimizer:
    """The optimizer that a config with this block gets."""
    model = build_model()
    return build_optimizer(name, params, model, list(model.parameters()))


def base_of(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer behind the power, which must be there."""
    assert isinstance(optimizer, GradPower)
    return optimizer.base


@pytest.mark.parametrize("name", ["SWAN", "SinkGD", "PolarGrad", "MatrixMuon", "AdamPower"])
def test_documented_defaults(name: str) -> None:
    """The JSON block of docs/optimizers.md, which names every key, equals the defaults."""
    default, written = build(name), build(name, DOCUMENTED[name])
    assert type(default) is type(written)
    assert _settings(default) == _settings(written)
    if isinstance(default, MatrixOptimizer) and isinstance(written, MatrixOptimizer):
        assert default.oracle == written.oracle


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


@pytest.mark.parametrize(
    ("name", "base"),
    [("SWANPower", SWAN), ("PolarGradPower", PolarGrad), ("MuonPower", Muon), ("AdamPower", AdamW)],
)
def test_power_aliases(name: str, base: type) -> None:
    """Each alias is its base behind the power 1.2."""
    optimizer = build(name)
    assert type(base_of(optimizer)) is base
    assert {g["power"] for g in optimizer.param_groups} == {1.2}


def test_grad_power_of_anything() -> None:
    """Ours, DeepSpeed's-named Muon, and torch's optimizers, in any case."""
    for name, base in [
        ("SWAN", SWAN),
        ("sinkgd", SinkGD),
        ("muon", Muon),
        ("adamw", AdamW),
        ("SGD", torch.optim.SGD),
    ]:
        spec = {"power": 0.9, "base": {"type": name, "params": {"lr": 0.02}}}
        optimizer = build("GradPower", spec)
        assert type(base_of(optimizer)) is base
        assert {(g["power"], g["lr"]) for g in optimizer.param_groups} == {(0.9, 0.02)}


def test_a_power_in_the_params_wraps() -> None:
    """ "power" is a setting of every optimizer; 1.0 adds nothing."""
    assert isinstance(base_of(build("SWAN", {"power": 1.2})), SWAN)
    assert type(build("PolarGrad", {"power": 1.0})) is PolarGrad


def test_exchange_settings() -> None:
    """They stand among the optimizer's params, of a GradPower among its base's."""
    given = {"exchange_bucket_size": 1000, "exchange_strategy": {"*.up.weight": "gram"}}
    default, swan = build("SWAN", {"lr": 0.1}), build("SWAN", given)
    documented = ExchangeSettings(
        exchange_bucket_size=2**29, communication_data_type="fp32", exchange_strategy={}
    )
    assert isinstance(default, SWAN) and default.exchange == documented
    assert isinstance(swan, SWAN) and swan.exchange == ExchangeSettings(**given)
    muon = base_of(build("GradPower", {"base": {"type": "Muon", "params": given}}))
    assert isinstance(muon, Muon) and muon.exchange == ExchangeSettings(**given)
    for wrong, message in (
        (
            {"exchange_bucket_size": 0},
            "SWAN: exchange: exchange_bucket_size: .*greater than 0, got 0",
        ),
        ({"communication_data_type": "fp16"}, "communication_data_type: .*'fp32' or 'bf16'"),
        ({"exchange_strategy": {"*": "local"}}, "exchange_strategy.*'owner' or 'gram'"),
    ):
        with pytest.raises(ValueError, match=message):
            build("SWAN", wrong)


def test_a_model_without_matrices_is_refused() -> None:
    """AdamW alone would train it, and the loss would fall."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=99))
    none = {"exclude": ["*.c_*.weight"]}
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no matrix"):
        build_optimizer("SWAN", none, model, list(model.parameters()))
    optimizer = build_optimizer("SWAN", {}, model, list(model.parameters()))
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 12]


def test_names() -> None:
    """Any case; DeepSpeed's and torch's own names are left alone."""
    assert canonical_name("swan") == "SWAN" and canonical_name("GRADPOWER") == "GradPower"
    for other in ("Adam", "AdamW", "Muon", "SGD", "OneBitAdam", None):
        assert canonical_name(other) is None


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("SWAN", {"learning_rate": 1}, "key 'learning_rate'; valid: alpha, aux, betas, comm"),
        ("SWAN", {"momentum": 0.9}, "SWAN: unknown key 'momentum'"),
        ("SWAN", {"max_grad_norm": 1.0}, "gradient_clipping"),
        ("SWAN", {"betas": [0.9, 1.99]}, "SWAN: betas.1: .*less than 1"),
        ("SWAN", {"eps": "1e-8"}, "SWAN: eps: .*valid number"),
        ("AdamPower", {"exchange_bucket_size": 1}, "unknown key 'exchange_bucket_size'"),
        ("SWAN", {"lr": "0.02"}, "SWAN: lr: .*valid number, got '0.02'"),
        ("SWAN", {"aux": 3}, "SWAN: aux: .*got 3"),
        ("SWAN", {"aux": {"lr": 1e-3, "lr_scale": 1.0}}, 'write "lr", or "lr_scale"'),
        ("SWAN", {"aux": {"lr_scale": 0}}, "aux.lr_scale: .*greater than 0"),
        ("SWAN", {"lr": "1", "aux": {"lr_scale": 1}}, "SWAN: lr: .*valid number"),
        ("SWAN", {"lr": -1.0}, "greater than 0"),
        ("SWAN", {"power": 0}, "SWAN: power: .*greater than 0"),
        ("SWAN", {"oracle": "svdd"}, "polar_express.*svdd"),
        ("SWAN", {"oracle": {"type": "newton_schulz", "stepz": 3}}, "steps.*stepz"),
        ("SWAN", {"aux": {"beta": 0.9}}, "aux.beta.*betas, eps, lr, weight_decay"),
        ("SWAN", {"aux": {"betas": ["0.9", 0.99]}}, "aux.betas"),
        ("SWAN", {"include": ["nothing*"]}, "matches no parameter"),
        ("SWAN", {"include": "lm_head.weight"}, "include: .*list"),
        ("SinkGD", {"oracle": "svd"}, "unknown key 'oracle'; valid: alpha, aux"),
        ("SinkGD", {"iterations": 0}, "greater than or equal to 1"),
        ("PolarGrad", {"scale": "nuklear"}, "'nuclear', 'none', 'spectral' or 'rms'"),
        ("PolarGrad", {"nesterov": 1}, "valid boolean"),
        ("AdamPower", {"momentum": 0.9}, "unknown key 'momentum'; valid: betas, eps, lr, power"),
        ("AdamPower", {"lr": "1e-3"}, "AdamPower: lr"),
        ("GradPower", {}, 'needs "base"'),
        ("GradPower", {"base": "SWAN"}, 'needs "base"'),
        ("GradPower", {"base": {"type": "SWANN"}}, "unknown base 'SWANN'; valid: .*SWAN"),
        ("GradPower", {"base": {"type": "SWAN", "params": {"power": 2}}}, 'write "power" once'),
        ("GradPower", {"base": {"type": "SGD", "params": {"momentun": 0.9}}}, "momentun.*momentum"),
        ("GradPower", {"base": {"type": "SGD", "params": {"lr": "1"}}}, "base SGD"),
        ("GradPower", {"base": {"type": "LBFGS"}}, "unknown base"),
        ("Sophia", {}, "unknown optimizer 'Sophia'; valid: AdamPower, GradPower"),
    ],
)
def test_mistakes_are_explained(name: str, params: dict[str, Any], message: str) -> None:
    """Unknown and ill-typed params raise one ValueError that says what is valid."""
    with pytest.raises(ValueError, match=message):
        build(name, params)
