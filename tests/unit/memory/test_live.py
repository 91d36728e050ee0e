"""No tensor behind the back: stateless means stateless, and a step gives everything back."""

import gc

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradopt_ds import SWAN, GradPower, PolarGrad, SinkGD, matrix_param_groups
from gradopt_ds.memory.allocations import LiveStorages
from gradopt_ds.memory.live import existing_tensors, tensors_in
from gradopt_ds.optim import MatrixOptimizer


def all_tensors() -> list[Tensor]:
    gc.collect()
    return [item for item in gc.get_objects() if issubclass(type(item), Tensor)]


def matrices() -> nn.Module:
    return nn.Sequential(*(nn.Linear(8, 12, bias=False) for _ in range(3)))


OPTIMIZERS = {
    "SWAN": lambda groups: SWAN(groups, lr=0.1),
    "SinkGD": lambda groups: SinkGD(groups),
    "PolarGrad without momentum": lambda groups: PolarGrad(groups, momentum=0.0),
    "SWANPower": lambda groups: GradPower(SWAN(groups, lr=0.1), power=1.2),
    "PolarGrad": lambda groups: PolarGrad(groups),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_step_leaves_behind(name: str) -> None:
    """Of all tensors that Python knows, only the momentum is new."""
    model = matrices()
    optimizer = OPTIMIZERS[name](matrix_param_groups(model, exclude=[]))
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    known = {tensor.untyped_storage().data_ptr() for tensor in all_tensors()}
    optimizer.step()
    new = [t for t in all_tensors() if t.untyped_storage().data_ptr() not in known]
    if name == "PolarGrad":
        assert sorted(t.shape for t in new) == [p.shape for p in model.parameters()]
    else:
        assert new == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_workspace_returns_to_zero(name: str) -> None:
    """In a second step, when state exists; what is taken at its peak is not nothing."""
    model = matrices()
    optimizer = OPTIMIZERS[name](matrix_param_groups(model))
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    optimizer.step()
    with LiveStorages() as live:
        optimizer.step()
        gc.collect()
        assert live.alive == 0
    assert live.peak > 0


def test_old_tensors_are_not_kept() -> None:
    tensor = torch.zeros(1000)
    before = existing_tensors()
    assert any(ref() is tensor for ref in before)
    references = [ref for ref in before if ref() is tensor]
    del tensor
    gc.collect()
    assert references[0]() is None


def test_containers_and_their_subclasses_are_searched() -> None:
    class Group(list):  # type: ignore[type-arg]
        pass

    inner = torch.zeros(2)
    assert list(tensors_in({"a": [Group([inner])], "b": (1, {"c": None})})) == [inner]
    assert issubclass(SWAN, MatrixOptimizer)


def test_tensors_that_are_only_traced_are_not_counted() -> None:
    """A compiled model keeps some, and asking for their address is an error."""
    with FakeTensorMode():
        traced = torch.zeros(1000)
    assert not any(ref() is traced for ref in existing_tensors())
