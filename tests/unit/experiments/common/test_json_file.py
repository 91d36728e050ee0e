from pathlib import Path

import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.common.json_file import load


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": {"lr": 1, "lr": 2}}', "'lr' twice"),
        ("[" * 100_000, "is not JSON"),
        ("", "is not JSON"),
        ("null", "must hold a JSON object, not a NoneType"),
    ],
)
def test_what_is_no_json_object(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(PretrainError, match=f"a.json.*{complaint}"):
        load(path)


def test_the_same_key_in_two_objects_is_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": {"lr": 1}, "b": {"lr": 2}}')
    assert load(path) == {"a": {"lr": 1}, "b": {"lr": 2}}
