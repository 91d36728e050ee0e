import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.compare import comparison, figure, report
from gradopt_ds.experiments.compare.launch import Outcome, finished_before
from gradopt_ds.experiments.pretrain import summary
from gradopt_ds.experiments.pretrain.metrics import MetricsLog
from gradopt_ds.experiments.pretrain.settings import RunSettings

CONFIGS = Path(__file__).parents[4] / "configs"
MODEL = {"model": CONFIGS / "models/tiny.json"}
ADAM = CONFIGS / "deepspeed/zero2_adamw.json"
SWAN = CONFIGS / "deepspeed/zero2_swan.json"


def finish(member: comparison.Member, loss: float) -> comparison.Result:
    """Writes what a finished run leaves behind."""
    output = member.settings.output
    log = MetricsLog(output, after=0)
    for step in (1, 2):
        log.add({"step": step, "elapsed_seconds": 0.5 * step, "validation_loss": loss + 2 - step})
    log.close()
    facts: dict[str, Any] = {
        "optimizer": "x",
        "optimizer_params": {},
        "zero_stage": 2,
        "ranks": 2,
        "parameters": 9,
        "steps": 2,
        "tokens": 20,
        "final_validation_loss": loss,
        "optimizer_state_bytes_per_rank": [2**20, 2**21],
        "seconds_per_step": 0.5,
        "training_seconds": 1.0,
        "command": "c",
        "fingerprint": member.settings.fingerprint(2),
    }
    summary.write(output, facts)
    return comparison.Result(member, Outcome("finished", 3.0))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.lr=1e-3:1e-1:3", [1e-3, 1e-2, 1e-1]),
        ("a.lr=1,2.5", [1.0, 2.5]),
        ("a.lr=1e-3:3e-3:2", [1e-3, 3e-3]),
        ("a.lr=true,svd", ["true", "svd"]),
        ("a.lr=12345678,0.123456789", [12345678, 0.123456789]),
        ("a.lr=auto,0.1", ["auto", "0.1"]),
    ],
)
def test_grids(text: str, values: list[float | str]) -> None:
    assert comparison.grid_values(text) == ("a.lr", values)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345678, "12345678"), (0.123456789, "0.123456789"), (1e-5, "1e-05"), (1.0, "1"), ("a", "a")],
)
def test_a_value_is_written_as_it_is(value: float | str, text: str) -> None:
    assert comparison.shown(value) == text


def test_a_grid_over_a_setting_of_the_run(tmp_path: Path) -> None:
    grid = ["schedule=cosine,wsd", "optimizer.params.power=0.9,1.2", "steps=40,80"]
    members = comparison.members([ADAM], MODEL, [0], grid, tmp_path)
    assert len(members) == 8
    last = members[-1].settings
    assert (last.schedule, last.steps) == ("wsd", 80)
    assert last.override == ("optimizer.params.power=1.2",)
    assert last.output == tmp_path / "adamw_schedule=wsd_power=1.2_steps=80_seed0"
    groups = report.gather([finish(member, 5.0) for member in members])
    assert groups[-1]["setting"] == "schedule=wsd, power=1.2, steps=80"
    figure.draw(groups, tmp_path / "comparison.png")
    with pytest.raises(PretrainError, match="--schedule"):
        comparison.members([ADAM], MODEL, [0], ["schedule=linear"], tmp_path)


@pytest.mark.parametrize(
    "text", ["a.lr", "a.lr=1,,2", "a.lr=1:2", "a.lr=1:x:2", "a.lr=nan:1:2", "schedule="]
)
def test_a_wrong_grid_is_explained(text: str) -> None:
    with pytest.raises(PretrainError, match="KEY=LOW:HIGH:COUNT"):
        comparison.grid_values(text)


@pytest.mark.parametrize("key", ["output", "seed", "resume", "deepspeed_config"])
def test_what_the_comparison_sets_itself_is_not_swept(key: str) -> None:
    with pytest.raises(PretrainError, match=f"{key} is not swept"):
        comparison.grid_values(f"{key}=1,2")


def test_members_are_the_product(tmp_path: Path) -> None:
    grid = ["optimizer.params.lr=1e-3:1e-1:3"]
    members = comparison.members([ADAM, SWAN], MODEL, [0, 1], grid, tmp_path)
    assert len(members) == 12
    assert members[1].settings.output == tmp_path / "adamw_lr=0.001_seed1"
    assert members[-1].settings.override == ("optimizer.params.lr=0.1",)
    assert members[-1].settings.seed == 1
    with pytest.raises(PretrainError, match="differ in their file names"):
        comparison.members([ADAM, ADAM], MODEL, [0], [], tmp_path)


def test_only_the_same_settings_are_reused(tmp_path: Path) -> None:
    (member,) = comparison.members([ADAM], MODEL, [0], [], tmp_path)
    assert not finished_before(member.settings, 2)
    finish(member, 5.0)
    assert finished_before(member.settings, 2)
    assert not finished_before(member.settings, 3)
    other = RunSettings(**{**member.settings.model_dump(), "steps": 11})
    assert not finished_before(other, 2)


def test_a_run_whose_data_has_changed_is_not_reused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be")
    settings = {**MODEL, "data": str(text)}
    (member,) = comparison.members([ADAM], settings, [0], [], tmp_path)
    finish(member, 5.0)
    assert finished_before(member.settings, 2)
    text.write_text("to be or not to me")
    assert not finished_before(member.settings, 2)


def test_jobs_run_side_by_side_and_an_interrupt_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of two jobs are under way at once; what is raised in one stops the other."""
    wanted = comparison.members([ADAM], MODEL, [0, 1, 2], [], tmp_path)
    together = threading.Barrier(2, timeout=10)

    def meet(settings: RunSettings, ranks: int, jobs: int, *rest: Any) -> Outcome:
        if settings.seed < 2:
            together.wait()
        return Outcome("finished", 1.0)

    monkeypatch.setattr(comparison.launch, "launch", meet)
    results = comparison.run_all(wanted, 1, 2, Path("x.py"), True, Console(quiet=True))
    assert [result.member.settings.seed for result in results] == [0, 1, 2]

    def interrupted(settings: RunSettings, *rest: Any) -> Outcome:
        stop: threading.Event = rest[-1]
        together.wait()
        if settings.seed == 0:
            raise KeyboardInterrupt
        stopped.append(stop.wait(timeout=10))
        return Outcome("failed")

    stopped: list[bool] = []
    monkeypatch.setattr(comparison.launch, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison.run_all(wanted[:2], 1, 2, Path("x.py"), True, Console(quiet=True))
    assert stopped == [True]


def test_the_report_averages_marks_the_best_and_survives_failures(tmp_path: Path) -> None:
    members = comparison.members([ADAM, SWAN], MODEL, [0, 1], ["o.lr=1,2"], tmp_path)
    losses = [5.0, 5.2, 4.0, 4.2, 6.0, 6.0]
    results = [finish(member, loss) for member, loss in zip(members, losses, strict=False)]
    results += [comparison.Result(member, Outcome("diverged")) for member in members[6:]]
    groups = report.gather(results)
    assert [group["best"] for group in groups] == [False, True, True, False]
    assert groups[1]["validation_loss"] == pytest.approx(4.1)
    assert groups[1]["spread"] == pytest.approx(0.1414, rel=1e-3)
    assert groups[1]["state_mib_per_rank"] == 2.0
    assert groups[1]["curve"]["validation_loss"] == pytest.approx([5.1, 4.1])
    assert groups[3]["status"] == "diverged"
    report.write(groups, tmp_path)
    figure.draw(groups, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert len(record["groups"]) == 4
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 5
    assert "| swan | lr=2 |" in (tmp_path / "comparison.md").read_text()
    assert len(report.make_table(groups).rows) == 4
    assert report.best(groups) == [1, 2]
