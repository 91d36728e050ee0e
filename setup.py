"""Package metadata. CPU-only machines add ``-c constraints-cpu.txt`` (see the README)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """The one place that says the version is ``gradopt_ds/__init__.py``."""
    for line in (ROOT / "gradopt_ds" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("gradopt_ds/__init__.py has no __version__")


EXTRAS = {
    "mpi": ["mpi4py>=4.0"],
    "plot": ["matplotlib>=3.8"],
    "dev": [
        "matplotlib>=3.8",
        "hypothesis>=6.100",
        "mypy>=1.13",
        "pytest>=8.0",
        "ruff>=0.8",
    ],
}

setup(
    name="gradopt-ds",
    version=version(),
    description="SWAN, PolarGrad and GradPower for DeepSpeed: named in the JSON, exact under ZeRO",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["gradopt_ds", "gradopt_ds.*"]),
    package_data={"gradopt_ds": ["py.typed"], "gradopt_ds.experiments.pretrain": ["corpus/*"]},
    install_requires=[
        "torch>=2.6",
        "deepspeed>=0.19.8,<0.20",
        "transformers>=5.0",
        "datasets>=4.0",
        "tokenizers>=0.21",
        "mpmath>=1.3",  # torch brings it along, by way of sympy
        "numpy>=1.26",
        "packaging>=23.0",
        "pydantic>=2.7",
        "rich>=13.0",
        "tensorboard>=2.15",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
