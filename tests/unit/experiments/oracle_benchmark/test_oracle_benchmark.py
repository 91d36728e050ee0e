"""The benchmark's matrices, its errors and its table."""

import csv
import json
from pathlib import Path

import pytest
import torch

from gradopt_ds.experiments.common import product_rate
from gradopt_ds.experiments.oracle_benchmark import matrices
from gradopt_ds.experiments.oracle_benchmark.candidates import (
    BASELINE,
    TORCH_MUON,
    Candidate,
    candidates,
    torch_muon,
)
from gradopt_ds.experiments.oracle_benchmark.matrices import (
    QUICK_SHAPES,
    SPECTRA,
    case,
    cases,
    gradient_case,
    matrix_with,
)
from gradopt_ds.experiments.oracle_benchmark.measure import deviations, measure
from gradopt_ds.experiments.oracle_benchmark.report import write
from gradopt_ds.experiments.oracle_benchmark.totals import totals
from gradopt_ds.ops import make_oracle
from tests.unit.ops.matrices import error, gaussian, polar, with_singular_values

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("spectrum", "condition"), [("condition 1e3", 1e3), ("condition 1e6", 1e6)]
)
@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (3, 16, 40)])
def test_condition_numbers(spectrum: str, condition: float, shape: tuple[int, ...]) -> None:
    sigma = torch.linalg.svdvals(matrix_with(spectrum, shape, seed=0)[0])
    assert sigma[..., 0] / sigma[..., -1] == pytest.approx(condition, rel=1e-6)


def test_the_truth_of_every_case() -> None:
    for sample in cases(QUICK_SHAPES, SPECTRA):
        assert sample.matrix.dtype == torch.float32 and sample.truth.dtype == torch.float64
        first = sample.matrix.reshape(-1, *sample.matrix.shape[-2:])[0]
        rank = min(first.shape) // 4 if sample.spectrum == "rank-deficient" else None
        truth = sample.truth.reshape(-1, *first.shape)[0]
        assert error(truth, polar(first, rank)) < 1e-6


@pytest.mark.parametrize("spectrum", [s for s in SPECTRA if s != "condition 1e6"])
def test_the_truth_of_a_large_matrix(spectrum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By eigenvectors where an SVD takes too long."""
    monkeypatch.setattr(matrices, "BY_EIGENVECTORS", 1)
    for shape in ((24, 24), (40, 16), (3, 16, 40)):
        (sample,) = cases({"": shape}, (spectrum,))
        first = sample.matrix.reshape(-1, *shape[-2:])[0]
        rank = min(first.shape) // (4 if spectrum == "rank-deficient" else 1)
        assert error(sample.truth.reshape(-1, *first.shape)[0], polar(first, rank)) < 1e-7
        assert sample.nuclear.flatten()[0] == pytest.approx(
            float(torch.linalg.svdvals(first.double())[:rank].sum())
        )


def test_oracles_in_several_dtypes() -> None:
    names = [candidate.name for candidate in candidates(["float16"])]
    assert names[0] == BASELINE
    assert "polar_express 8 float16" in names
    assert not {"eigh float16", "eigh float32 float16", "adaptive float16"} & set(names)


def test_the_rate_of_a_large_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_rate, "timed", lambda run, x: (run(x), 0.5))
    monkeypatch.setattr(product_rate, "ON_CPU", 16)
    assert product_rate.best_rate(CPU) == {
        "peak_dtype": "float32", "peak_flops_per_second": 2 * 16**3 / 0.5
    }  # fmt: skip


def test_errors_of_a_known_deviation() -> None:
    """Half the truth: three quarters short of orthogonal, half off, half the nuclear norm."""
    sample = case("", "", gaussian(2, 12, 5))
    assert deviations(sample.truth.float(), sample) == pytest.approx((0, 0, 0), abs=1e-6)
    assert deviations(sample.truth / 2, sample) == pytest.approx((0.75, 0.5, -0.5), abs=1e-6)


def test_rank_deficient_errors_look_at_the_range() -> None:
    g = gaussian(9, 3) @ gaussian(3, 7, seed=1)
    sample = case("", "", g, rank=3)
    assert deviations(sample.truth, sample)[:2] == pytest.approx((0, 0), abs=1e-9)
    assert deviations(polar(g), sample)[1] > 0.5  # null directions at full strength


def test_a_gradient_s_noise_does_not_count() -> None:
    """Directions below 1e-6 of the largest may come out as anything."""
    sigma = torch.tensor([1.0, 0.3, 2e-6, 1e-8])
    g = with_singular_values(sigma, 6)
    sample = gradient_case("", g)
    assert error(sample.truth, polar(g, rank=3)) < 1e-9
    assert deviations(polar(g), sample)[:2] == pytest.approx((0, 0), abs=1e-9)
    assert deviations(polar(g, rank=2), sample)[1] == pytest.approx(3**-0.5)


def test_what_takes_too_long_is_left_out() -> None:
    oracle = make_oracle("newton_schulz")
    slow = Candidate("slow", oracle, lambda m, n: 10**18)
    rows = measure(
        case("s", "g", gaussian(16, 16)),
        [Candidate(BASELINE, oracle, oracle.flops), slow],
        rounds=2,
        longest=5.0,
        device=CPU,
        progress=lambda name: None,
    )
    assert [row.oracle for row in rows] == [BASELINE]
    assert rows[0].relative == 1 and rows[0].flops == oracle.flops(16, 16)


def test_torch_s_newton_schulz_is_the_peer_that_it_is_called() -> None:
    """Ours in bfloat16, but for rounding; in batches, and without writing its input."""
    g = gaussian(2, 12, 30)
    before = g.clone()
    ours = make_oracle({"type": "newton_schulz", "dtype": "bfloat16"})(g)
    assert error(torch_muon(g), ours) < 0.1
    assert torch.equal(g, before)


def test_files_and_totals(tmp_path: Path) -> None:
    every = [
        candidate
        for candidate in candidates()
        if candidate.name in (BASELINE, "adaptive", TORCH_MUON)
    ]
    rows = [
        row
        for size in ((16, 16), (24, 8))
        for row in measure(
            case("model", "gradient", gaussian(2, *size)), every, 1, 9.0, CPU, lambda name: None
        )
    ]
    total = totals(rows, "model")
    assert [row.oracle for row in total] == [candidate.name for candidate in every]
    assert total[1].seconds == pytest.approx(rows[1].seconds + rows[4].seconds)
    assert total[1].direction == max(rows[1].direction, rows[4].direction) < 1e-4
    write(rows, total, tmp_path, "cpu")
    with (tmp_path / "oracles.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    assert len(json.loads((tmp_path / "oracles.json").read_text())["rows"]) == 9
    text = (tmp_path / "oracles.md").read_text()
    assert "\n## model (2x24x8), gradient\n\n| oracle | orthogonality | direction | " in text
    row = rows[1]
    errors = f"{row.orthogonality:.1e} | {row.direction:.1e} | {row.nuclear:+.1e}"
    assert f"| adaptive | {errors} | {row.relative:.2f} | {row.seconds:.4f} |" in text
    assert (tmp_path / "oracles.png").stat().st_size > 1000
