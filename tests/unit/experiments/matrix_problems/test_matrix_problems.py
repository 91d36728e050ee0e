"""The matrix problems are what they say, and a run leaves its files."""

import json
import queue
from pathlib import Path

import pytest
import torch

from gradopt_ds.experiments.matrix_problems import report
from gradopt_ds.experiments.matrix_problems.optimizers import OPTIMIZERS, AlternatingGD
from gradopt_ds.experiments.matrix_problems.problems import (
    PROBLEMS,
    Completion,
    Logistic,
    Quadratic,
)
from gradopt_ds.experiments.matrix_problems.run import Task, run, tasks


def test_quadratic_gap_and_gradient() -> None:
    """Zero at the solution, and f(X) - f* elsewhere."""
    problem = Quadratic(6, 4, 9, 7)
    gap, value = problem.objective(), float(problem.loss().detach())
    (gradient,) = torch.autograd.grad(problem.loss(), problem.parameters)
    a, b, c, x = (
        t.detach().double() for t in (problem.a, problem.b, problem.c, *problem.parameters)
    )
    torch.testing.assert_close(
        gradient.double(), a.mT @ (a @ x @ b - c) @ b.mT, rtol=1e-4, atol=1e-3
    )
    with torch.no_grad():
        problem.parameters[0].copy_(problem.solution)
    assert problem.objective() < 1e-9
    assert value - float(problem.loss().detach()) == pytest.approx(gap, rel=1e-4)
    assert problem.residual() == pytest.approx((2 * float(problem.loss().detach())) ** 0.5)


def test_quadratic_smoothness() -> None:
    """L is the largest eigenvalue of the Hessian, which is a Kronecker product."""
    problem = Quadratic(5, 3, 8, 4)
    hessian = torch.kron((problem.a.mT @ problem.a).double(), (problem.b @ problem.b.mT).double())
    assert problem.smoothness() == pytest.approx(
        float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-5
    )


def test_logistic_batches_cover_an_epoch() -> None:
    """The losses of one epoch's mini-batches add up to f."""
    problem = Logistic(samples=2000, m=5, n=4, q=6, batch=500)
    with torch.no_grad():
        batches = sum(float(problem.loss()) for _ in range(4))
    assert batches == pytest.approx(problem.objective(), rel=1e-5)
    assert 0.3 < problem.residual() < 0.7
    assert set(problem.c.unique().tolist()) == {-1.0, 1.0}


def test_completion_sees_a_share_of_the_entries() -> None:
    """Rank 5, the loss over the seen entries, the residual over all."""
    problem = Completion(60, 40)
    assert problem.mask.mean() == pytest.approx(0.3, abs=0.05)
    assert torch.linalg.matrix_rank(problem.target) == 5
    left, right = problem.parameters
    off = (left @ right.mT - problem.target)[problem.mask.bool()].square().mean()
    assert problem.objective() == pytest.approx(float(off), rel=1e-5)


def test_the_seed_decides() -> None:
    """Two optimizers start from the same place."""
    for build in (lambda: Quadratic(5, 4, 6, 7), lambda: Completion(8, 9)):
        for param, other in zip(build().parameters, build().parameters, strict=True):
            assert torch.equal(param, other)


def test_alternating_descent_moves_one_at_a_time() -> None:
    problem = Completion(12, 9)
    optimizer = AlternatingGD(problem.parameters, lr=1.0)
    for turn in range(4):
        before = [param.detach().clone() for param in problem.parameters]
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, problem.parameters, strict=True)]
        assert moved == [turn % 2 == 0, turn % 2 == 1]


def test_every_optimizer_of_every_problem_twice() -> None:
    wanted = tasks(list(PROBLEMS), None)
    assert len(wanted) == 2 * sum(len(OPTIMIZERS[problem]) for problem in PROBLEMS)
    assert {task.steps for task in wanted} == {4000, 1500, 1000}
    assert all(task.steps == 7 for task in tasks(["completion"], 7))


def test_completion_ends_as_published(tmp_path: Path) -> None:
    """A quarter of the steps already tells PolarGrad from Muon; and the files are there."""
    threads = torch.get_num_threads()
    traces = [
        run(Task("completion", name, False, 250), queue.Queue()) for name in ("PolarGrad", "Muon")
    ]
    torch.set_num_threads(threads)
    polar, muon = (trace.points[-1] for trace in traces)
    assert polar.objective < 1e-10 < 1e-5 < muon.objective
    report.write(traces, tmp_path)
    assert len(json.loads((tmp_path / "matrix_problems.json").read_text())["runs"]) == 2
    assert (tmp_path / "completion.png").stat().st_size > 1000
    points = (tmp_path / "matrix_problems.csv").read_text().splitlines()
    assert points[0] == "problem,optimizer,decayed,step,objective,residual,condition,nuclear"
    assert len(points) == 1 + 2 * 126
    lowest = min(point.objective for point in traces[1].points)
    numbers = f"{muon.objective:.2e} | {lowest:.2e} | {muon.residual:.2e} | "
    last = (tmp_path / "ends.md").read_text().splitlines()[-1]
    assert last.startswith(f"| completion | Muon | 250 | {numbers}")
    assert (tmp_path / "ends.csv").read_text().count("\n") == 3
