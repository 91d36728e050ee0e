"""Attributes of DeepSpeed's wrappers, by what they hold (release 0.19.8)."""

WEIGHTS = (
    "bit16_groups_flat",
    "bf16_groups_flat",
    "fp16_groups_flat",
    "lp_param_buffer",
    "param_groups_fp16_flat_cpu_memory",
)
"""The model's weights, in flat tensors."""

MASTERS = (
    "single_partition_of_fp32_groups",
    "fp32_groups_flat_partition",
    "fp32_groups",
    "fp32_partitioned_groups_flat",
)
"""What the base optimizer steps on."""

GRADIENTS = (
    "averaged_gradients",
    "all_grad_tensors",
    "accumulated_grads_in_cpu",
    "offload_gradient_dict",
    "grad_partitions_flat_buffer",
    "fp32_groups_gradients_flat",
)
"""Gradients, accumulated or reduced."""

BUCKETS = "ipg_buckets"
"""What is reduced next, by dtype."""

MUON_METHODS = ("get_flat_partition", "_apply_muon_to_accumulated_grads")
"""Where DeepSpeed's own Muon orthogonalises: stages 1 and 2, stage 3."""
