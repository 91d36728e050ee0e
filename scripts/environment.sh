# Sourced by demo.sh and test.sh: one environment for both.
export PATH="$PWD/.venv/bin:$PATH"
export TOKENIZERS_PARALLELISM=false
# Nothing is byte-compiled at installation (setup.sh), so the first import must be allowed to.
unset PYTHONDONTWRITEBYTECODE
# DeepSpeed compiles its CPU communication once, here.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.cache/torch_extensions}"
command -v nvidia-smi >/dev/null || export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
