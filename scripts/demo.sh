#!/usr/bin/env bash
# Sets up, then trains one small LLaMA on the embedded English corpus with AdamW, SWAN, PolarGrad
# and AdamPower on two DeepSpeed ranks under ZeRO-2, and sets them side by side.
# usage: scripts/demo.sh [options of scripts/compare.py, e.g. --steps 1000 --seeds 0 1 2]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh experiments
source scripts/environment.sh
exec python scripts/compare.py "$@"
