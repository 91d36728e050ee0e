# Sourced by gpu_report.sh: every kind of part at sizes for a CPU, in some minutes.
PARTS=(
  check tests:oracles tests:rest oracles:square oracles:wide oracles:exact step:tiny:2
  memory:tiny largest seven train:swan train:adamw train mixture:swan mixture summary
)
source scripts/gpu_parts.sh
export oracle_shapes_square='experts' oracle_shapes_wide='experts' oracle_shapes_exact='experts'
export oracle_rounds=1
export step_options='--precision bf16 --repeats 1 --steps 1'
export step_optimizers=AdamW,SWAN
export memory_options='--precision bf16 --sequence-length 32 --steps 1'
export largest_steps=1 largest_card=1 largest_model=tiny
export largest_options='--sequence-length 32 --reduce-bucket-size 1000000'
export seven_model=configs/models/tiny.json seven_steps=4 seven_length=32
export train_model=configs/models/tiny.json mixture_model=configs/models/qwen2moe_tiny.json
export train_options='--steps 4 --sequence-length 32 --train-batch 4 --micro-batch 2
  --validation-sequences 4 --vocab-size 512'
