"""What tensor and pipeline parallelism leave to a rank, before ZeRO cuts it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from gradopt_ds.integration.parallel.stages_on_paper import cut_stages
from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.memory.activations import Share
from gradopt_ds.memory.setup import Setup


class Place(NamedTuple):
    """A rank's place: its pipeline stage, its tensor-parallel rank, its data-parallel ranks.

    Attributes:
        stage: from 0 on.
        tensor: from 0 on.
        data: data-parallel ranks of which one holds the most; those of one place hold equal shapes.
    """

    stage: int
    tensor: int
    data: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """How a model is divided.

    Attributes:
        stages: for each pipeline stage its parameters, and how tensor parallelism cuts them.
        setup: the sizes.
    """

    stages: tuple[dict[Tensor, TensorCut], ...]
    setup: Setup

    @classmethod
    def of(cls, model: nn.Module, setup: Setup) -> "Split":
        """Divide a model on the meta device.

        Raises:
            ValueError: see :func:`~gradopt_ds.integration.parallel.stages_on_paper.cut_stages`.
        """
        params = dict(model.named_parameters())
        stages = cut_stages(
            model,
            setup.tensor_parallel,
            setup.tensor_parallel_preset,
            setup.pipeline,
            setup.pipeline_partition,
        )
        return cls(tuple({params[n]: cut for n, cut in own.items()} for own in stages), setup)

    def places(self, rank: int | None) -> Iterator[Place]:
        """Return the place of a rank; of all ranks by default, those that hold the same once.

        Args:
            rank: p * D * T + d * T + t, for pipeline stage p, data-parallel rank d and tensor-
                parallel rank t.
        """
        setup = self.setup
        if rank is not None:
            stage, within = divmod(rank, setup.ranks * setup.tensor_parallel)
            data, tensor = divmod(within, setup.tensor_parallel)
            yield Place(stage, tensor, (data,))
            return
        for stage in range(setup.pipeline):
            seen = set()
            for tensor in range(setup.tensor_parallel):
                shapes = tuple(self.shapes(stage, tensor).values())
                if shapes not in seen:
                    seen.add(shapes)
                    yield Place(stage, tensor, tuple(range(setup.ranks)))

    def shapes(self, stage: int, tensor: int) -> dict[Tensor, tuple[int, ...]]:
        """Return the shapes of what a rank has of the parameters of its stage."""
        return {param: cut.shard_shape(tensor) for param, cut in self.stages[stage].items()}

    def share(self, model: nn.Module, stage: int) -> Share:
        """Return what is computed on a stage."""
        own = self.stages[stage]
        paths = [name.split(".") for name, param in model.named_parameters() if param in own]
        layers = {next(filter(str.isdigit, path), None) for path in paths} - {None}
        last = len(self.stages) - 1
        # A stage runs ahead of the last one by as many micro batches as there are between them.
        ahead = min(last - stage + 1, self.setup.accumulation)
        return Share(len(layers), stage == 0, stage == last, ahead)
