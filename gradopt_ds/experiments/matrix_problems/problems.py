"""Quadratic regression, logistic regression and low-rank completion, with PolarGrad's sizes."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

SEED = 42


class Problem(ABC):
    """Something to minimise over one or two matrices.

    Attributes:
        parameters: the matrices, in float32.
        steps: how many the problem is given.
        decay: (interval, factor) of a step decay of the learning rate.
    """

    name: ClassVar[str]
    measure: ClassVar[str]
    """What :meth:`objective` is, for an axis."""
    steps: ClassVar[int]
    decay: ClassVar[tuple[int, float]]

    parameters: list[Tensor]

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the (mini-batch) loss whose gradient the optimizer gets."""

    @abstractmethod
    def objective(self) -> float:
        """Measure how far the problem is from solved."""

    @abstractmethod
    def residual(self) -> float:
        """Return the norm of what is left to fit."""


class Quadratic(Problem):
    r""":math:`f(X) = \frac12\|AXB - C\|_F^2`, strongly convex, with all matrices Gaussian."""

    name = "quadratic"
    measure = "f(X) - f*"
    steps = 4000
    decay = (25, 0.99)

    def __init__(
        self, m: int = 500, n: int = 100, p: int = 1000, q: int = 250, seed: int = SEED
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.a, self.b, self.c = (
            torch.randn(size, generator=draw) for size in ((p, m), (n, q), (p, q))
        )
        start = 2 * torch.rand((m, n), generator=draw) - 1
        a, b, c = self.a.double(), self.b.double(), self.c.double()
        self.solution = torch.linalg.pinv(a) @ c @ torch.linalg.pinv(b)
        self.parameters = [start.requires_grad_()]

    def loss(self) -> Tensor:
        """Compute F in float32."""
        return (self.a @ self.parameters[0] @ self.b - self.c).square().sum() / 2

    def objective(self) -> float:
        """Compute f(X) - f*, in float64 and without cancellation: f is 1e5 at the solution."""
        off = self.parameters[0].detach().double() - self.solution
        return float((self.a.double() @ off @ self.b.double()).square().sum() / 2)

    def residual(self) -> float:
        """Compute ``||AXB - C||_F``."""
        return float((2 * self.loss().detach()).sqrt())

    def smoothness(self) -> float:
        """Return the Lipschitz constant L of the gradient, ``||A||^2 ||B||^2``."""
        norms = (torch.linalg.matrix_norm(factor.double(), 2) for factor in (self.a, self.b))
        return float(torch.stack(list(norms)).prod() ** 2)


class Logistic(Problem):
    r""":math:`f(X) = \sum \mathrm{softplus}(-C \circ AXB)` with random signs C, in mini-batches."""

    name = "logistic"
    measure = "f(X)"
    steps = 1500
    decay = (25, 0.95)

    def __init__(
        self,
        samples: int = 10_000,
        m: int = 1000,
        n: int = 100,
        q: int = 400,
        batch: int = 1000,
        seed: int = SEED,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.a = torch.randn(samples, m, generator=draw)
        self.b = torch.randn(n, q, generator=draw)
        self.c = (torch.rand(samples, q, generator=draw) < 0.5).float() * 2 - 1
        start = 2 * torch.rand((m, n), generator=draw) - 1
        self.parameters = [start.requires_grad_()]
        self.batch = batch
        self.draw = draw
        self.left: list[Tensor] = []

    def loss(self) -> Tensor:
        """Compute F on the next mini-batch of a fresh permutation each epoch."""
        if not self.left:
            order = torch.randperm(len(self.a), generator=self.draw)
            self.left = list(order.split(self.batch))
        return self._on(self.left.pop())

    def objective(self) -> float:
        """Compute F on all samples."""
        with torch.no_grad():
            return float(sum(self._on(rows) for rows in torch.arange(len(self.a)).split(1000)))

    def residual(self) -> float:
        """Return the share of entries with the wrong sign."""
        with torch.no_grad():
            wrong = (self.c * (self.a @ self.parameters[0] @ self.b) <= 0).float()
            return float(wrong.mean())

    def _on(self, rows: Tensor) -> Tensor:
        return softplus(-self.c[rows] * (self.a[rows] @ self.parameters[0] @ self.b)).sum()


class Completion(Problem):
    r"""A rank-5 matrix from 30 % of its entries: the mean of :math:`(XY^\top - M)^2` over them.

    The factors of M are drawn like the start, uniformly from [-1, 1].
    """

    name = "completion"
    measure = "f(X, Y)"
    steps = 1000
    decay = (25, 0.95)

    def __init__(
        self, m: int = 500, n: int = 250, rank: int = 5, seen: float = 0.3, seed: int = SEED
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        factors, starts = (
            [2 * torch.rand((size, rank), generator=draw) - 1 for size in (m, n)] for _ in range(2)
        )
        self.target = factors[0] @ factors[1].mT
        self.mask = (torch.rand(m, n, generator=draw) < seen).float()
        self.parameters = [start.requires_grad_() for start in starts]

    def loss(self) -> Tensor:
        """Return the mean over the seen entries."""
        left, right = self.parameters
        off = self.mask * (left @ right.mT - self.target)
        return off.square().sum() / self.mask.sum()

    def objective(self) -> float:
        """Return the loss."""
        return float(self.loss().detach())

    def residual(self) -> float:
        """Compute ``||XY^T - M||_F / ||M||_F``, over the entries that were not seen as well."""
        left, right = (factor.detach() for factor in self.parameters)
        return float((left @ right.mT - self.target).norm() / self.target.norm())


PROBLEMS: dict[str, type[Problem]] = {
    problem.name: problem for problem in (Quadratic, Logistic, Completion)
}
