#!/usr/bin/env bash
# Makes .wheels/: what gpu_report.sh needs on a machine without network, whose Python has torch,
# transformers and the rest of the scientific stack, but not DeepSpeed. 6 MiB.
# usage: scripts/gpu_wheels.sh [VERSION OF THAT PYTHON, e.g. 3.12] [more packages, NAME==VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-3.12}
python=${PYTHON:-python3}
packages=(
  annotated-types datasets dill hjson multiprocess py-cpuinfo pydantic typing-inspection "${@:2}"
)

rm -rf .wheels
# DeepSpeed is a source distribution. Its operators are compiled where they are used, if they are.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --no-build-isolation \
  --wheel-dir .wheels 'deepspeed>=0.19.8,<0.20'
platforms=()
for glibc in 2_34 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
fetch() {
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 --dest .wheels "$@"
}
fetch "${packages[@]}"
# pydantic works with one version of its core alone, and says with which.
fetch "$(unzip -p .wheels/pydantic-*.whl '*/METADATA' |
  sed -n 's/^Requires-Dist: \(pydantic-core==[^ ;]*\).*/\1/p')"
du -sh .wheels
