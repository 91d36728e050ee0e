# Sourced by gpu_report.sh: the parts, in the order of their worth, for one GPU of 80 GB.
# part_NAME runs NAME, and NAME:REST with $rest; it writes to $folder, below $output.
PARTS=(
  check
  tests:oracles tests:engines tests:two_ranks tests:rest
  oracles:square oracles:wide oracles:exact
  step:350m:2 step:2b:2 step:1.3b:2 step:350m:3 step:2b:3 step:1.3b:3
  step:350m:1 step:1.3b:1 step:2b:1 fused:350m:2 fused:1.3b:2 fused:2b:2
  memory:350m memory:1.3b memory:2b
  largest seven
  train:swan train:adamw train:muon train:polargrad train
  mixture:swan mixture:adamw mixture:muon mixture:polargrad mixture
  summary
)
source scripts/gpu_parts.sh
export oracle_shapes_square='1k 2k 4k' oracle_shapes_wide='mlp head|32 experts'
export oracle_shapes_exact='1k' oracle_rounds=10
export step_options='--precision bf16 --repeats 2 --steps 5'
export step_optimizers=AdamW,DeepSpeedMuon,MatrixMuon,SWAN,PolarGrad
export memory_options='--precision bf16 --sequence-length 1024 --micro-batch 4 --steps 3'
# The estimate leaves 5 % of 79 GiB free.
export largest_steps=3 largest_card=75 largest_model=7b largest_options='--sequence-length 512'
export seven_model=configs/models/7b.json seven_steps=40 seven_length=512
export train_model=configs/models/2b.json mixture_model=configs/models/qwen2moe_2b.json
export train_options='--steps 150 --sequence-length 1024 --train-batch 32 --micro-batch 8
  --validation-sequences 32 --vocab-size 32000'
