"""What the user of ``scripts/pretrain.py`` can put right ends in one line and exit status 2."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

MODEL = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
SWAN = {"type": "SWAN", "params": {"lr": 0.01}}
HUGE = {"hidden_size": 2**17, "intermediate_size": 2**19, "num_hidden_layers": 64}

CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {}
"""Name → what is written to a folder and told on the command line, and what the error says."""


def case(name: str, says: str) -> Callable[[Callable[[Path], list[str]]], None]:
    def add(prepare: Callable[[Path], list[str]]) -> None:
        CASES[name] = (prepare, says)

    return add


def file(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def config(changes: dict[str, Any]) -> Callable[[Path], list[str]]:
    whole = {"train_micro_batch_size_per_gpu": 2, "optimizer": SWAN, **changes}
    return lambda folder: ["--deepspeed_config", file(folder, "changed.json", whole)]


def model(changes: dict[str, Any]) -> Callable[[Path], list[str]]:
    return lambda folder: ["--model", file(folder, "changed.json", {**MODEL, **changes})]


def data(name: str, content: Any) -> Callable[[Path], list[str]]:
    return lambda folder: ["--data", file(folder, name, content)]


case("unknown optimizer", "names the optimizer 'SWANN', which there is not.*mean SWAN.*PolarGrad")(
    config({"optimizer": {"type": "SWANN"}})
)
case("no optimizer", "names no optimizer: add")(config({"optimizer": None}))
case("optimizer is a list", "names no optimizer: add")(config({"optimizer": ["SWAN"]}))
case("unknown key at the top", "no key 'zero_optimisation'.*mean 'zero_optimization'")(
    config({"zero_optimisation": {"stage": 2}})
)
case("unknown key of the optimizer", r"no key 'optimizer.parms'.*mean 'params'")(
    config({"optimizer": {"type": "SWAN", "parms": {}}})
)
case("unknown key of ZeRO", "stge")(config({"zero_optimization": {"stge": 2}}))
case("ZeRO's block is a list", "changed.json: DeepSpeed cannot read it: .*list")(
    config({"zero_optimization": [2]})
)
case("unknown key of DeepSpeed's AdamW", "changed.json: .*'lrr'")(
    config({"optimizer": {"type": "AdamW", "params": {"lrr": 1}}})
)
case("rate of DeepSpeed's AdamW is a word", "changed.json: .*'float'")(
    config({"optimizer": {"type": "AdamW", "params": {"lr": "fast"}}})
)
case("unknown setting of the rule", "SWAN: unknown key 'lrr'; valid: .*alpha")(
    config({"optimizer": {"type": "SWAN", "params": {"lrr": 1}}})
)
case("unknown key of the model", "a llama has no key 'hidden_sizes', did you mean 'hidden_size'")(
    model({"hidden_sizes": 3})
)
case("wrong type in the model", "hidden_size")(model({"hidden_size": "wide"}))
case("model too large", "needs about .* GiB of this host's memory for 1 rank")(model(HUGE))
case("binary JSON", "is not JSON")(
    lambda folder: ["--deepspeed_config", file(folder, "binary.json", bytes(range(128, 256)))]
)
case("binary text", r"cannot read \S*text.txt of --data .*UnicodeDecodeError")(
    data("text.txt", bytes(range(256)) * 40)
)
case("broken JSON line", r"cannot read \S*lines.jsonl of --data")(
    data("lines.jsonl", '{"text": "to be or not to be"}\n{"text": "unfinish\n')
)
case("text is a number", "has 7 where text is wanted, in the column 'text'")(
    data("numbers.jsonl", '{"text": 7}\n' * 9)
)
case("text is a list", r"has \['a', 'b'\] where text is wanted")(
    data("lists.jsonl", '{"text": ["a", "b"]}\n' * 9)
)
case("no such column", "has no column 'text' but .*words.*--text-column")(
    data("columns.jsonl", '{"words": "a"}\n' * 9)
)
case("output is a file", "--output .* cannot be written")(
    lambda folder: ["--output", file(folder, "taken", "")]
)
case("output under a file", "--output .* cannot be written")(
    lambda folder: ["--output", file(folder, "taken2", "") + "/runs"]
)
case("cache is a file", "--cache .*: name a folder that can be written")(
    lambda folder: ["--cache", file(folder, "taken", "")]
)
case("unknown flag", "unrecognized arguments: --stepps")(lambda _: ["--stepps", "3"])
case("no steps", "--steps: .*greater than or equal to 1")(lambda _: ["--steps", "0"])
case("negative steps", "--steps: .*greater than or equal to 1")(lambda _: ["--steps", "-5"])
case("no time to save", "--save-minutes: .*greater than 0")(lambda _: ["--save-minutes", "0"])
case("empty file", "empty.txt leaves this rank no training document")(data("empty.txt", ""))
case("only empty lines", "leaves this rank no training document")(data("blank.txt", "\n\n\n\n"))
case("sequence longer than all text", "the validation text of .* fills 0 sequences of 16 tokens")(
    data("short.txt", "to be\n\nor not")
)
case("JSON broken in its third line", "broken.json is not JSON: .*line 3 column")(
    lambda folder: ["--deepspeed_config", file(folder, "broken.json", '{\n"a": 1,\n}')]
)
case("activation_checkpointing without its flag", "read with --checkpointing deepspeed only")(
    config({"activation_checkpointing": {"profile": True}})
)
case("attention that is not installed", "--attention flash_attention_2: ImportError")(
    lambda _: ["--attention", "flash_attention_2"]
)
case("no such tokenizer", "--tokenizer .*nowhere")(lambda folder: ["--tokenizer", "./nowhere"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("refusals")
    base = [
        *config({})(folder),
        *("--model", file(folder, "model.json", MODEL), "--cache", str(folder / "cache")),
        *("--vocab-size", "300", "--sequence-length", "16", "--steps", "1"),
    ]
    base[1] = file(folder, "deepspeed.json", json.loads(Path(base[1]).read_text()))
    lines = {}
    for number, (name, (prepare, _)) in enumerate(CASES.items()):
        own = folder / str(number)
        own.mkdir()
        lines[name] = [*base, "--output", str(own / "out"), *prepare(own)]
    given, results_file = folder / "lines.json", folder / "found.json"
    given.write_text(json.dumps(lines))
    command = [sys.executable, "-m", "tests.e2e.refusals_worker", str(given), str(results_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, dict[str, Any]] = json.loads(results_file.read_text())
    return results


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_status_2(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert result["status"] == 2, result["stderr"]
    assert "Traceback" not in result["stderr"]
    last = result["stderr"].strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert result["stderr"].count("\nerror: ") == 0
    assert re.search(CASES[name][1], last), last
