import torch

from gradopt_ds.memory import optimizer_state_bytes, optimizer_state_bytes_by_key


def stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(shape)) for shape in ((7, 5), (3,))]


def test_adamw_holds_two_moments_and_a_counter_each() -> None:
    optimizer = stepped(torch.optim.AdamW(weights()))
    elements = 7 * 5 + 3
    assert optimizer_state_bytes_by_key(optimizer) == {
        "exp_avg": 4 * elements,
        "exp_avg_sq": 4 * elements,
        "step": 2 * 4,
    }
    assert optimizer_state_bytes(optimizer) == 8 * elements + 8


def test_sgd_holds_nothing_or_one_momentum() -> None:
    assert optimizer_state_bytes(stepped(torch.optim.SGD(weights(), lr=0.1))) == 0
    with_momentum = stepped(torch.optim.SGD(weights(), lr=0.1, momentum=0.9))
    assert optimizer_state_bytes(with_momentum) == 4 * (7 * 5 + 3)


def test_before_the_first_step_there_is_nothing() -> None:
    assert optimizer_state_bytes(torch.optim.AdamW(weights())) == 0


def test_a_storage_counts_once_and_nesting_is_seen() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    whole = torch.zeros(100, dtype=torch.bfloat16)
    optimizer.state[parameter] = {
        "view": whole[:10],
        "other_view": [whole[50:]],
        "nested": {"deep": (torch.zeros(3, dtype=torch.float64), 5)},
        "number": 1.0,
    }
    assert optimizer_state_bytes_by_key(optimizer) == {"view": 200, "nested": 24}
