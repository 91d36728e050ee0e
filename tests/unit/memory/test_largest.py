"""The largest model that fits is written as a file that makes that model."""

from pathlib import Path

from gradopt_ds.experiments.common import models
from gradopt_ds.experiments.memory_report.largest import shape, write_shape


def test_the_file_makes_the_model(tmp_path: Path) -> None:
    path = write_shape(640, tmp_path / "new" / "model.json")
    assert models.parameter_count(models.model_config(path)) == models.parameter_count(shape(640))
