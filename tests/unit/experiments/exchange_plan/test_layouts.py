"""The layouts on paper against what DeepSpeed does, by hand."""

import torch
from torch import nn

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.exchange_plan.layouts import matrices_of, zero_layouts
from gradopt_ds.sharding import Matrix
from tests.conftest import ROOT
from tests.distributed.model import MATRICES, TinyLM

SHAPES = [(4, 5), (3, 3), (2, 7)]
"""20, 9 and 14 elements: 43 in all."""


def named(shapes: list[tuple[int, int]]) -> list[Matrix]:
    return [Matrix(str(i), *shape) for i, shape in enumerate(shapes)]


def test_the_matrices_are_those_that_get_the_rule() -> None:
    """In the order of the model; further ones by name."""
    with torch.device("meta"):
        model = TinyLM()
    assert {m.name for m in matrices_of(model)} == MATRICES
    names = [m.name for m in matrices_of(model, ["lm_head.weight"])]
    assert names == [n for n, _ in model.named_parameters() if n in {*MATRICES, "lm_head.weight"}]


def test_a_llama_has_seven_matrices_a_layer() -> None:
    """Nothing is allocated for it."""
    config = models.model_config(ROOT / "configs/models/7b.json")
    matrices = list(matrices_of(models.on_meta(config)))
    assert len(matrices) == 7 * 32
    assert {(m.rows, m.columns) for m in matrices} == {(4096, 4096), (11008, 4096), (4096, 11008)}


def test_stages_1_and_2_cut_one_flat_tensor() -> None:
    """43 elements on 3 ranks are padded to 48: a multiple of 2 x 3."""
    for stage in (1, 2):
        (layout,) = zero_layouts(named(SHAPES), stage, 3, 10**9)
        assert (layout.slice_size, layout.world_size) == (16, 3)
        pieces = [(p.rank, p.slice_start, p.length) for i in range(3) for p in layout.pieces(i)]
        assert pieces == [(0, 0, 16), (1, 0, 4), (1, 4, 9), (1, 13, 3), (2, 0, 11)]


def test_stage_3_cuts_every_matrix() -> None:
    """Into chunks of 7, 3 and 5; a sub-group closes when its part reaches its size."""
    (whole,) = zero_layouts(named(SHAPES), 3, 3, 10**9)
    assert whole.slice_size == 7 + 3 + 5
    groups = zero_layouts(named(SHAPES), 3, 3, 8)
    assert [[m.name for m in group.matrices] for group in groups] == [["0", "1"], ["2"]]
    assert [group.slice_size for group in groups] == [10, 5]


def test_tied_parameters_count_once() -> None:
    """A matrix that two modules share is one matrix."""
    first = nn.Linear(4, 4, bias=False)
    second = nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert [m.name for m in matrices_of(nn.Sequential(first, second))] == ["0.weight"]
