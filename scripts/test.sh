#!/usr/bin/env bash
# Sets up and runs the tests, in two processes: one has the distributed tests, one the others.
# usage: scripts/test.sh [options of pytest, e.g. tests/unit -k polar]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
source scripts/environment.sh
exec python -m pytest --numprocesses 2 "$@"
