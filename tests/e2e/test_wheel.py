"""The wheel alone, in an empty environment, trains a plain torch model under ZeRO-2."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.distributed.launch import free_port

TRAIN = """
import deepspeed, torch
import gradopt_ds

model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(3)])
config = {
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": 2},
    "optimizer": {"type": "SWAN", "params": {"lr": 0.2, "oracle": "zolo_pd"}},
}
deepspeed.init_distributed(dist_backend="gloo")
engine, *_ = deepspeed.initialize(model=model, config=config)
x = torch.linspace(-1, 1, 32).view(4, 8)
losses = []
for _ in range(30):
    loss = (engine(x) - x.flip(0)).square().mean()
    engine.backward(loss)
    engine.step()
    losses.append(loss.item())
print("LOSSES", losses[0], losses[-1])
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, outside the checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd="/",
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def python(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and its base dependencies."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment)
    (wheel,) = distributions.glob("*.whl")
    python = environment / "bin" / "python"
    constraints = ROOT / "constraints-cpu.txt"
    run(python, "-m", "pip", "install", "--no-compile", "-c", constraints, wheel)
    return python


def test_contents(distributions: Path) -> None:
    """The library with its corpus and its mark for type checkers; no tests."""
    (wheel,), (sdist,) = distributions.glob("*.whl"), distributions.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gradopt_ds"}
    assert "gradopt_ds/py.typed" in names
    assert any(name.endswith("shakespeare.jsonl.gz") for name in names)
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/README.md") for name in archive.getnames())


def test_it_trains(python: Path, tmp_path: Path) -> None:
    """Without transformers and the other packages of the experiments."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    output = run(python, script, **address, **ranks).stdout
    first, last = map(float, output.split("LOSSES")[1].split()[:2])
    assert last < 0.8 * first
    missing = "import importlib.util as u; print([n for n in %r if u.find_spec(n)])"
    names = ["transformers", "datasets", "tokenizers", "matplotlib", "tensorboard"]
    assert run(python, "-c", missing % names).stdout.strip() == "[]"


def test_the_command(python: Path) -> None:
    """Converting needs no extra; reports say which one they need."""
    command = python.with_name("gradopt-ds")
    assert "source" in run(command, "convert", "--help").stdout
    done = subprocess.run([command, "plan", "--model", "7b"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'gradopt-ds[experiments]'" in done.stderr
