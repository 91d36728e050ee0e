from pathlib import Path

from gradopt_ds.experiments.pretrain.checkpoint import latest_step, prune


def folders(directory: Path, *steps: int) -> None:
    for step in steps:
        (directory / f"step{step}").mkdir()
        (directory / f"step{step}" / "file").touch()


def left(directory: Path) -> set[int]:
    return {int(folder.name.removeprefix("step")) for folder in directory.glob("step*")}


def test_the_last_ones_are_kept_by_number(tmp_path: Path) -> None:
    folders(tmp_path, 8, 16, 100)
    prune(tmp_path, step=100, keep=2)
    assert left(tmp_path) == {16, 100}


def test_a_half_saved_later_one_does_not_push_out_the_good_one(tmp_path: Path) -> None:
    folders(tmp_path, 8, 16, 24)  # killed while saving 24, resumed from 8, now at 16
    prune(tmp_path, step=16, keep=1)
    assert left(tmp_path) == {16}


def test_only_a_finished_checkpoint_counts(tmp_path: Path) -> None:
    assert latest_step(tmp_path) is None
    folders(tmp_path, 8)
    assert latest_step(tmp_path) is None
    (tmp_path / "latest").write_text("step8")
    assert latest_step(tmp_path) == 8
