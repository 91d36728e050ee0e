import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.data import sources
from gradopt_ds.experiments.pretrain.data.documents import TrainingDocuments, validation_texts
from gradopt_ds.experiments.pretrain.settings import RunSettings

Make = Callable[..., RunSettings]


def texts(start: int, count: int) -> list[str]:
    return [f"document number {number} of the corpus" for number in range(start, start + count)]


def json_gz(path: Path, rows: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as stream:
        for text in rows:
            stream.write(json.dumps({"text": text, "url": "u"}) + "\n")


def c4_like(root: Path, shards: int) -> str:
    for shard in range(shards):
        name = f"en/c4-train.{shard:05d}-of-{shards:05d}.json.gz"
        json_gz(root / name, texts(100 * shard, 20))
    json_gz(root / "en/c4-validation.00000-of-00001.json.gz", texts(9000, 10))
    return str(root)


def epoch(settings: RunSettings, rank: int = 0, ranks: int = 1) -> list[str]:
    documents = TrainingDocuments(settings, rank, ranks)
    texts = []
    while True:
        text = next(documents)
        if documents.epoch:
            return texts
        texts.append(text)


@pytest.mark.parametrize("shards", [1, 3, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_are_disjoint_and_cover_c4(
    make: Make, tmp_path: Path, shards: int, ranks: int
) -> None:
    settings = make(data=c4_like(tmp_path / "c4", shards))
    parts = [epoch(settings, rank, ranks) for rank in range(ranks)]
    wanted = [text for shard in range(shards) for text in texts(100 * shard, 20)]
    assert Counter(itertools.chain(*parts)) == Counter(wanted)
    assert list(validation_texts(settings)) == texts(9000, 10)


def test_openwebtext_like_parquet_splits_by_hash(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "owt"
    (root / "plain_text").mkdir(parents=True)
    for shard in range(2):
        table = pa.table({"text": texts(100 * shard, 100)})
        pq.write_table(table, root / f"plain_text/train-{shard:05d}-of-00002.parquet")
    settings = make(data=str(root), validation_share=0.2)
    training, held = epoch(settings), list(validation_texts(settings))
    assert Counter(training + held) == Counter(texts(0, 200))
    assert 20 <= len(held) <= 60
    parts = [epoch(settings, rank, 2) for rank in range(2)]
    assert Counter(itertools.chain(*parts)) == Counter(training)


def test_text_files_are_cut_at_empty_lines(make: Make, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        lines = [f"{name} paragraph {number}\nsecond line" for number in range(40)]
        (tmp_path / name).write_text("\n\n".join(lines))
    settings = make(data=str(tmp_path / "*.txt"))
    texts = epoch(settings) + list(validation_texts(settings))
    assert len(texts) == 80
    assert "a.txt paragraph 0\nsecond line" in {text.strip() for text in texts}


def test_a_jsonl_file_with_another_column(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts(0, 50)))
    settings = make(data=str(path), text_column="body")
    assert Counter(epoch(settings) + list(validation_texts(settings))) == Counter(texts(0, 50))
    with pytest.raises(PretrainError, match="no column 'text'"):
        epoch(make(data=str(path)))


def test_a_saved_position_goes_on_exactly(make: Make, tmp_path: Path) -> None:
    settings = make(data=c4_like(tmp_path / "c4", 3))
    for stop in (0, 1, 29, 30, 31, 75):
        unbroken = TrainingDocuments(settings, rank=1, ranks=2)
        for _ in range(stop):
            next(unbroken)
        resumed = TrainingDocuments(settings, rank=1, ranks=2)
        state = json.loads(json.dumps(unbroken.state_dict()))
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state  # for a checkpoint before the next text is read
        assert [next(resumed) for _ in range(50)] == [next(unbroken) for _ in range(50)]


def test_shakespeare_is_whole_and_split(make: Make) -> None:
    settings = make()
    training, held = epoch(settings), list(validation_texts(settings))
    assert len(training) + len(held) == 1221
    assert not set(training) & set(held)
    assert 30 <= len(held) <= 90


@pytest.mark.parametrize(
    ("source", "where"),
    [("c4", ("allenai/c4", "en")), ("openwebtext", ("Skylion007/openwebtext", None))],
)
def test_hub_sources_make_the_real_call(
    source: str, where: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    calls: list[tuple[object, ...]] = []

    def refuse(*arguments: object, **options: object) -> None:
        calls.append((*arguments, options))
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "load_dataset", refuse)
    with pytest.raises(PretrainError, match="give --data a local directory of the same layout"):
        sources.documents(make(data=source), validation=False)
    assert calls == [(*where, {"streaming": True})]


def test_what_cannot_be_read_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match="no file, directory or glob"):
        epoch(make(data=str(tmp_path / "missing")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PretrainError, match=r"holds no \.txt"):
        epoch(make(data=str(tmp_path / "empty")))
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(PretrainError, match="cannot read files of kinds"):
        epoch(make(data=str(tmp_path / "a.pdf")))


def test_the_broken_file_of_a_folder_is_named(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "three"
    root.mkdir()
    for name in "ac":
        (root / f"{name}.jsonl").write_text('{"text": "to be or not to be"}\n' * 9)
    (root / "b.jsonl").write_text('{"text": "to be"}\n{"text": broken\n')
    with pytest.raises(PretrainError, match=r"cannot read \S*/three/b.jsonl of --data"):
        epoch(make(data=str(root)))
    (root / "b.jsonl").write_text("")
    with pytest.raises(PretrainError, match="b.jsonl is empty: remove it"):
        epoch(make(data=str(root / "b.jsonl")))


def test_a_glob_takes_files_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "b.jsonl").write_text('{"text": "to be or not to be"}\n' * 9)
    assert epoch(make(data=str(tmp_path / "*.jsonl"))) == ["to be or not to be"] * 9


def test_a_rank_without_documents_says_so(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"text": "alone"}) + "\n")
    with pytest.raises(PretrainError, match="no training document"):
        next(TrainingDocuments(make(data=str(path)), rank=1, ranks=2))
