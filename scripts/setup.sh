#!/usr/bin/env bash
# Makes or reuses .venv in the checkout and installs this package with the given extra into it.
# usage: scripts/setup.sh EXTRA        (experiments: to train and compare; dev: to run the tests)
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-experiments}
stamp=.venv/.installed-$extra

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  # A plain torch would bring several GB of CUDA libraries to a machine that cannot use them.
  constraints=()
  command -v nvidia-smi >/dev/null || constraints=(-c constraints-cpu.txt)
  # Byte-compiling every file of torch and its company takes longer than importing what is used.
  .venv/bin/python -m pip install --quiet --no-compile "${constraints[@]}" -e ".[$extra]"
  touch "$stamp"
fi
