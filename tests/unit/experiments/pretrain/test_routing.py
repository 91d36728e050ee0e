"""Load of the experts and the losses, against the model's own router and cross-entropy."""

from typing import Any

import pytest
import torch
from torch import nn

from gradopt_ds.experiments.pretrain import routing
from gradopt_ds.experiments.pretrain.routing import ExpertLoad, language_loss
from tests.distributed.moe_model import CONFIG, EXPERTS, VOCABULARY, build_moe


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing.dist, "all_reduce", lambda tensor: tensor)


def forward(model: nn.Module, tokens: torch.Tensor) -> Any:
    """The outputs that `TinyMoe` itself keeps to its loss."""
    return super(type(model), model).forward(input_ids=tokens, labels=tokens)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(seed))


def test_the_language_loss_is_the_cross_entropy() -> None:
    model = build_moe()
    outputs = forward(model, tokens())
    logits = outputs.logits[:, :-1].flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, tokens()[:, 1:].flatten())
    assert outputs.loss > expected + 0.01
    torch.testing.assert_close(language_loss(outputs, CONFIG), expected)


def test_the_load_is_what_the_router_chose() -> None:
    """Over two passes, counted from the indices that the router hands to the experts."""
    model = build_moe()
    chosen: list[int] = []
    router = model.model.layers[0].mlp.gate
    router.register_forward_hook(lambda *call: chosen.extend(call[-1][2].flatten().tolist()))
    load = ExpertLoad(CONFIG)
    aux = []
    for seed in range(2):
        outputs = forward(model, tokens(seed))
        load.add(outputs)
        aux.append(outputs.aux_loss.item())
    counts = [chosen.count(expert) for expert in range(EXPERTS)]
    row = load.row()
    assert len(chosen) == 2 * 2 * 36
    assert row["expert_load"] == [pytest.approx([count / len(chosen) for count in counts])]
    assert row["load_max_over_mean"] == pytest.approx(max(counts) * EXPERTS / len(chosen))
    assert row["router_loss"] == pytest.approx(sum(aux) / 2)
    assert (row["idle_experts"], row["dropped_tokens"]) == (counts.count(0), 0)


def test_a_router_that_knows_one_expert_pair_leaves_the_others_idle() -> None:
    """And its load-balancing loss is as large as it gets: experts over choices, times choices."""
    model = build_moe()
    router = model.model.layers[0].mlp.gate

    def always_the_same(module: nn.Module, args: Any, result: Any) -> Any:
        logits = torch.full_like(result[0], -50.0)
        logits[:, 1:3] = 50.0
        return logits, result[1], logits.topk(2).indices

    router.register_forward_hook(always_the_same)
    load = ExpertLoad(CONFIG)
    load.add(forward(model, tokens()))
    row = load.row()
    assert row["expert_load"] == [[0.0, 0.5, 0.5, 0.0, 0.0]]
    assert (row["idle_experts"], row["load_max_over_mean"]) == (3, 2.5)
    assert row["router_loss"] == pytest.approx(EXPERTS)


def test_a_dense_model_has_no_load() -> None:
    outputs = type("Outputs", (), {"loss": torch.tensor(2.5)})()
    load = ExpertLoad(object())
    load.add(outputs)
    assert load.row() == {}
    assert language_loss(outputs, object()) == 2.5
