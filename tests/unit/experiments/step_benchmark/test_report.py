"""The table from made-up measurements."""

import json
from pathlib import Path
from typing import Any

import pytest

from gradopt_ds.experiments.step_benchmark.figure import draw
from gradopt_ds.experiments.step_benchmark.optimizers import candidates
from gradopt_ds.experiments.step_benchmark.report import make_rows, make_table, write
from gradopt_ds.experiments.step_benchmark.settings import BenchSettings


def measurements(backward: list[float], total: list[float], flops: int = 0) -> list[dict[str, Any]]:
    count = {
        "calls": {"a": 2, "b": 1}, "sent": {"a": 2e6}, "state": 10, "peak": 5, "flops": flops,
        "operations": 7, "allocated": 3_000_000,
    }  # fmt: skip
    counted = {"backward": backward[:1], "total": total[:1], "host": [4], "counts": [count]}
    return [counted, {"backward": backward[1:], "total": total[1:], "host": [6, 8], "counts": []}]


RESULTS = [
    {"optimizer": "AdamW", "measurements": measurements([10, 12, 11], [20, 22, 21])},
    {"optimizer": "DeepSpeedMuon", "measurements": measurements([50, 52, 51], [70, 72, 71])},
    {
        "optimizer": "MatrixMuon",
        "measurements": measurements([10, 10, 10], [30, 31, 99], flops=10**9),
    },
]


def test_a_step_is_everything_but_the_common_backward() -> None:
    """AdamW's median backward, 11, is taken from every median total."""
    adamw, theirs, ours = make_rows(RESULTS)
    assert [row["step_ms"] for row in (adamw, theirs, ours)] == [10, 60, 20]
    assert (ours["to_deepspeed_muon"], ours["to_baseline"], adamw["to_deepspeed_muon"]) == (
        1 / 3,
        2,
        1 / 6,
    )
    assert (ours["sent_mb"], ours["collectives"]) == (2, 3)
    assert ours["oracle_gflops_per_second"] == pytest.approx(1 / 0.02)
    assert adamw["oracle_gflops_per_second"] is None


def test_the_files_say_the_same(tmp_path: Path) -> None:
    """Numbers for people in the Markdown, all digits in the CSV, everything in the JSON."""
    settings = BenchSettings(model="x/tiny.json", output=tmp_path)
    results = [{**result, "setting": ""} for result in RESULTS]
    table = make_table(make_rows(results), settings)
    assert table.title == "tiny, ZeRO 3, 2 ranks, fp32: one optimizer step, per rank"
    write(table, settings)
    assert (tmp_path / "bench_step.md").read_text().splitlines()[-1] == (
        "| MatrixMuon |  | 20 | 17 | 0.33 | 2.00 | 2.00 | 3 | 0.00 | 0.00 | 50 | 6.00 | 7 | 3.00 |"
    )
    assert (tmp_path / "bench_step.csv").read_text().splitlines()[2] == (
        "DeepSpeedMuon,,60,0.5,1.0,6.0,2.0,3,1e-05,5e-06,,6,7,3.0"
    )
    facts = json.loads((tmp_path / "bench_step.json").read_text())
    assert facts["settings"]["stage"] == 3 and facts["versions"]["torch"]
    assert [row["step_ms"] for row in facts["optimizers"]] == [10, 60, 20]
    draw(table.rows, table.title, tmp_path / "bench_step.png")
    assert (tmp_path / "bench_step.png").read_bytes().startswith(b"\x89PNG")


def test_without_deepspeeds_muon_there_is_no_ratio_to_it() -> None:
    """Not one to something else."""
    assert [row["to_deepspeed_muon"] for row in make_rows(RESULTS[::2])] == [None, None]


@pytest.mark.parametrize("names", ["AdamW,SGD", "MatrixMuon,SWAN", "AdamW,MatrixMuon,MatrixMuon"])
def test_the_optimizers_must_be_known_and_contain_the_baseline(names: str) -> None:
    """Each once."""
    with pytest.raises(ValueError, match="name each optimizer once|unknown SGD"):
        BenchSettings(model="x", optimizers=names)


def test_both_muons_compete_with_their_best() -> None:
    """With five steps of the same iteration; stage 3 refuses DeepSpeed's with reduce_scatter."""
    theirs = candidates("DeepSpeedMuon", 3, None)
    assert {candidate.optimizer["params"]["ns_method"] for candidate in theirs} == {
        "gram",
        "standard",
    }
    assert not any(candidate.reduce_scatter for candidate in theirs)
    assert all(candidate.reduce_scatter for candidate in candidates("DeepSpeedMuon", 2, None))
    ours = [candidate.optimizer["params"] for candidate in candidates("MatrixMuon", 3, None)]
    assert [candidate["oracle"]["steps"] for candidate in ours] == [5, 5]
    (chosen,) = candidates("MatrixMuon", 3, "newton_schulz")
    assert chosen.setting == "oracle=newton_schulz"
