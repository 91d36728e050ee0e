"""What the tables say, counted another way."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradopt_ds.experiments.common.command_line import build
from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.exchange_plan import report
from gradopt_ds.experiments.exchange_plan.layouts import zero_layouts
from gradopt_ds.experiments.exchange_plan.ranks import (
    all_to_alls,
    by_shape,
    imbalance,
    make_plans,
    per_rank,
)
from gradopt_ds.experiments.exchange_plan.settings import PlanSettings
from gradopt_ds.matrices import ExchangeSettings
from gradopt_ds.ops import NewtonSchulz
from gradopt_ds.sharding import Matrix
from tests.conftest import ROOT

LLAMA_7B = [
    Matrix(f"{layer}.{i}", *shape)
    for layer in range(32)
    for i, shape in enumerate([(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)])
]
TALL = Matrix("head", 64, 4)
SMALL_BUCKET = ExchangeSettings(exchange_bucket_size=1000)


def test_7b_on_512_ranks_takes_seconds() -> None:
    """Every rank's row; all matrices have one owner; bytes and work are those of the matrices."""
    started = time.perf_counter()
    plans = make_plans(zero_layouts(LLAMA_7B, 3, 512, 10**9), NewtonSchulz(), ExchangeSettings())
    rows = per_rank(plans, bytes_per_element=4)
    assert time.perf_counter() - started < 30  # 2 s on an idle core
    assert [row["rank"] for row in rows] == list(range(512))
    assert sum(row["matrices"] for row in rows) == len(LLAMA_7B)
    flops = sum(NewtonSchulz().flops(m.rows, m.columns) for m in LLAMA_7B)
    assert sum(row["flops"] for row in rows) == flops
    # Every piece but the owner's goes there and back, and one scale with each.
    sent = sum(2 * m.numel * 511 // 512 + 511 for m in LLAMA_7B)
    assert sum(row["sent"] for row in rows) == 4 * sent
    assert imbalance(rows) == max(row["flops"] for row in rows) / (flops / 512)


def test_sub_groups_share_the_load() -> None:
    """Four equal matrices, each in a sub-group of its own: two for each rank, not four for one."""
    matrices = [Matrix(str(i), 8, 8) for i in range(4)]
    plans = make_plans(zero_layouts(matrices, 3, 2, 1), NewtonSchulz(), ExchangeSettings())
    assert len(plans) == 4
    rows = per_rank(plans, bytes_per_element=2)
    assert [row["matrices"] for row in rows] == [2, 2]
    assert imbalance(rows) == 1
    assert all_to_alls(plans) == 8
    # Half of each matrix there and half back in 2 bytes, one scale in 4.
    assert sum(row["sent"] for row in rows) == 4 * (2 * (32 + 32) + 4)


def test_shapes_say_their_strategies() -> None:
    """Stage 1: one matrix is cut, three are whole; a tall one beyond the bucket stays cut."""
    matrices = [Matrix(str(i), 8, 8) for i in range(5)]
    (plan,) = make_plans(zero_layouts(matrices, 1, 2, 1), NewtonSchulz(), ExchangeSettings())
    (shape,) = by_shape([plan])
    assert vars(shape) == {"rows": 8, "columns": 8, "local": 4, "owner": 1, "gram": 0}
    plans = make_plans(zero_layouts([TALL], 3, 2, 10**9), NewtonSchulz(), SMALL_BUCKET)
    assert by_shape(plans)[0].gram == 1
    assert "all-reduces of 1 Gram" in report.summary(plans)


def test_a_setting_that_makes_no_sense_names_its_flag() -> None:
    """Stages, oracles."""
    with pytest.raises(PretrainError, match="--stage"):
        build(PlanSettings, {"model": Path("x"), "stage": 4})
    with pytest.raises(PretrainError, match="--oracle: oracle type must be one of"):
        build(PlanSettings, {"model": Path("x"), "oracle": "cholesky"})


def test_each_optimizer_has_its_own_oracle() -> None:
    """Unless another one is asked for, with options or without."""
    own = {
        name: PlanSettings(model=Path("x"), optimizer=name).chosen_oracle.name
        for name in ("Muon", "PolarGrad")
    }
    assert own == {"Muon": "newton_schulz", "PolarGrad": "polar_express"}
    settings = PlanSettings(model=Path("x"), oracle='{"type": "newton_schulz", "steps": 7}')
    assert settings.chosen_oracle == NewtonSchulz(steps=7)


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    """A model by name; the full table in the files."""
    command = [sys.executable, str(ROOT / "scripts/plan.py"), "--model", "tiny", "--ranks", "3"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "imbalance" in done.stdout and "352 x 128" in done.stdout
    record = json.loads((tmp_path / "plan.json").read_text())
    assert [row["rank"] for row in record["ranks"]] == [0, 1, 2]
    assert record["machine"]["cores"] and record["command"].endswith(str(tmp_path))
    assert (tmp_path / "plan.csv").read_text().startswith("rank,matrices,flops,sent,peak\n")
    head = "| rank | matrices owned | oracle GFLOP | sent MB | peak workspace MB |\n"
    assert (tmp_path / "plan.md").read_text().startswith(head)
    # Of tiny's four layers: q, k, v, o; gate, up; down.
    assert (tmp_path / "shapes.csv").read_text() == (
        "shape,local,owner,gram\n128 x 352,0,4,0\n352 x 128,0,8,0\n128 x 128,0,16,0\n"
    )
    wrong = subprocess.run([*command[:3], "none"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "not one of 1.3b, 130m" in wrong.stderr
