import csv
from pathlib import Path

from gradopt_ds.experiments.pretrain.metrics import COLUMNS, MetricsLog, read


def row(step: int, loss: float = 1.0) -> dict[str, float]:
    return {"step": step, "tokens": 10 * step, "loss": loss, "lr": 0.1}


def written(directory: Path) -> tuple[list[int], list[int]]:
    jsonl = [entry["step"] for entry in read(directory / "metrics.jsonl")]
    with (directory / "metrics.csv").open() as stream:
        table = [int(entry["step"]) for entry in csv.DictReader(stream)]
    return jsonl, table


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after=0)
    for step in range(1, 8):
        log.add(row(step))
    log.close()
    log = MetricsLog(tmp_path, after=4)
    assert written(tmp_path) == ([1, 2, 3, 4], [1, 2, 3, 4])
    log.add(row(5, loss=2.0))
    log.close()
    assert written(tmp_path) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert read(tmp_path / "metrics.jsonl")[-1]["loss"] == 2.0


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after=0)
    log.add(row(1))
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert written(tmp_path)[0] == [1]
    MetricsLog(tmp_path, after=9).close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_a_fresh_run_forgets_the_old_trace(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after=0)
    log.add(row(1))
    log.close()
    MetricsLog(tmp_path, after=0).close()
    assert written(tmp_path) == ([], [])
    assert (tmp_path / "metrics.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_rows_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after=0)
    log.add({**row(1), "validation_loss": 3.0})
    assert read(tmp_path / "metrics.jsonl")[0]["validation_loss"] == 3.0
    log.close()
