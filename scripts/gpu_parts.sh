# Sourced by gpu_parts_full.sh and gpu_parts_tiny.sh: what each kind of part runs. Sizes are theirs.

# What is there, on record.
part_check() {
  "$python" - "$folder/machine.json" <<'PYTHON'
import sys
from pathlib import Path

import torch

import gradopt_ds  # noqa: F401
from gradopt_ds.experiments.common import product_rate, provenance

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
provenance.write_json(Path(sys.argv[1]), {"cuda": torch.version.cuda, **product_rate.best_rate(device)})
print(Path(sys.argv[1]).read_text())
PYTHON
  ! command -v nvidia-smi >/dev/null || nvidia-smi
}

# The tests of tests/gpu; without a GPU their rehearsal.
part_tests() {
  case $rest in
    engines) select=(tests/gpu/test_exactness.py -k one_rank) ;;
    two_ranks) select=(tests/gpu/test_exactness.py tests/gpu/test_transfer.py -k 'two_ranks or gloo') ;;
    oracles) select=(tests/gpu/test_oracles.py) ;;
    rest) select=(tests/gpu/test_waiting.py tests/gpu/test_transfer.py tests/gpu/test_sanitizers.py -k 'not gloo') ;;
  esac
  "$python" -m pytest -q -p no:cacheprovider -m "$GPU_TESTS" "${select[@]}" --errors
}

# Every oracle in every dtype on small matrices (exact), and five quintic steps on large ones.
part_oracles() {
  shapes=oracle_shapes_$rest options=()
  IFS='|' read -ra groups <<<"${!shapes}"
  names=()
  for group in "${groups[@]}"; do
    case $group in *experts) names+=("$group") ;; *) read -ra words <<<"$group"; names+=("${words[@]}") ;; esac
  done
  if [ "$rest" != exact ]; then
    options=(--spectra gaussian --oracles)
    for oracle in newton_schulz gram_newton_schulz polar_express gram_polar_express; do
      options+=("$oracle 5" "$oracle 5 bfloat16" "$oracle 5 float16")
    done
    options+=("torch.optim.Muon's")
    # Torch compiles DeepSpeed's two, which takes a CPU too long.
    [ "$sizes" = tiny ] || options+=(--deepspeed "DeepSpeed's standard" "DeepSpeed's gram")
  fi
  "$python" scripts/bench_oracles.py --shapes "${names[@]}" --steps 0 --rounds "$oracle_rounds" \
    --dtypes bfloat16 float16 --output "$folder" "${options[@]}"
}

# One model at one ZeRO stage.
part_step() {
  read -ra options <<<"$step_options"
  "$python" scripts/bench_step.py --model "${rest%:*}" --stage "${rest#*:}" --ranks 1 \
    --optimizers "$step_optimizers" --output "$folder" "${options[@]}"
}

# DeepSpeed's FusedAdam, which compiles a kernel first.
part_fused() {
  step_optimizers=AdamW,FusedAdam part_step
}
export -f part_step

# What the allocator counts, beside the estimate.
part_memory() {
  read -ra options <<<"$memory_options"
  "$python" scripts/memory.py measure --model "$rest" --optimizers AdamW,PolarGrad,SWAN \
    --output "$folder" "${options[@]}"
}

# The largest LLaMA that the estimate says fits with each optimizer; each is then built and trained
# for some steps, and what the other one would need for it is refused with the numbers.
part_largest() {
  read -ra options <<<"$largest_options"
  setup=(--stage 3 --precision pure-bf16 "${options[@]}")
  "$python" scripts/memory.py estimate --model "$largest_model" --card "$largest_card" \
    --optimizers AdamW,SWAN --output "$folder" "${setup[@]}"
  for name in AdamW SWAN; do
    "$python" scripts/memory.py measure --model "$folder/largest_$name.json" --steps "$largest_steps" \
      --optimizers AdamW,SWAN --output "$folder/of_$name" "${setup[@]}" ||
      [ -f "$folder/of_$name/measure.json" ] # status 2: written, and an optimizer was refused
  done
}

# Real steps of a model that AdamW has no memory for.
part_seven() {
  "$python" scripts/pretrain.py --deepspeed_config configs/deepspeed/zero3_swan_pure_bf16.json \
    --model "$seven_model" --steps "$seven_steps" --sequence-length "$seven_length" \
    --train-batch 4 --micro-batch 1 --validation-sequences 8 --no-tensorboard --resume never \
    --cache runs/gpu_tokenizers --output "$folder/run"
}

# One optimizer; without one, the table and the figure of all that have been trained.
compare() {
  model=$1 kind=$2
  read -ra options <<<"${train_options//$'\n'/ }"
  configs=()
  if [ "$rest" = "$kind" ]; then
    for trained in "$output/runs_$kind"/*_seed0/summary.json; do
      [ -f "$trained" ] || { echo "error: no $kind:OPTIMIZER has been run" >&2; return 1; }
      name=$(basename "${trained%_seed0/summary.json}")
      configs+=("configs/deepspeed/zero2_$name.json")
    done
  else
    configs=("configs/deepspeed/zero2_$rest.json")
  fi
  "$python" scripts/compare.py "${configs[@]}" --ranks 1 --model "$model" --no-tensorboard \
    --override bf16.enabled=true --cache runs/gpu_tokenizers --output "$output/runs_$kind" \
    "${options[@]}"
}
part_train() { compare "$train_model" train; }
part_mixture() { compare "$mixture_model" mixture; }
export -f compare

# All figures beside their goals.
part_summary() { "$python" scripts/gpu_summary.py "$output"; }
