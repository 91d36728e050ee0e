"""Where the examples are that a checkout of the repository brings along."""

from pathlib import Path

from gradopt_ds.experiments.common.errors import PretrainError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MODELS = CONFIGS / "models"
DEEPSPEED = CONFIGS / "deepspeed"


def find_model(name: Path, folder: Path = MODELS) -> Path:
    """Find the JSON file of a model by its name in ``folder``, or by its path.

    Raises:
        PretrainError: there is neither.
    """
    for path in (folder / f"{name}.json", name):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    hint = f"not one of {known}" if known else f"{folder} holds no models: give a file's path"
    raise PretrainError(f"--model {name}: no such file, and {hint}")
