# Sourced by gpu_report.sh: what is installed, from where, and for which device.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.cache/torch_extensions}"
if ! "$python" -c 'import importlib.util as u; exit(u.find_spec("deepspeed") is None)'; then
  [ -d .wheels ] || {
    echo "error: $python has no deepspeed, and there is no .wheels/: run scripts/gpu_wheels.sh" >&2
    exit 2
  }
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" .wheels/*.whl || exit 2
  export PYTHONPATH="$PYTHONPATH:$site" PATH="$site/bin:$PATH"
fi
if [ "$("$python" -c 'import torch; print(torch.cuda.is_available())')" = True ]; then
  unset DS_ACCELERATOR
  export GPU_TESTS=gpu
else
  [ "$sizes" = tiny ] || {
    echo "error: torch sees no GPU; --sizes tiny rehearses the parts on the CPU" >&2
    exit 2
  }
  export DS_ACCELERATOR=cpu GPU_TESTS='not gpu'
fi
