"""DeepSpeed settings under which these optimizers would not do what their name says."""

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.runtime.zero import utils as zero_utils
from torch.optim import Optimizer

from gradopt_ds.integration.parallel import tensor_refused
from gradopt_ds.integration.parallel.experts_refused import REFUSED_WITH_EXPERTS
from gradopt_ds.integration.parallel.pipeline_refused import refused_with_pipeline
from gradopt_ds.integration.parallel.sequence import (
    fails_in_the_norm,
    is_sequence_unit,
    lacks_sequence_groups,
    leaves_sequences_apart,
    mixes_sums_and_means,
)
from gradopt_ds.integration.parallel.tensor import tensor_size
from gradopt_ds.integration.registry import is_elementwise
from gradopt_ds.optim import GradPower, MatrixOptimizer

Setting = tuple[str, Callable[[Any], object]]


def _zero(engine: Any) -> Any:
    return engine._config.zero_config


def _device(offload: Any) -> str:
    return "none" if offload is None else str(getattr(offload.device, "value", offload.device))


def _optimizer_device(engine: Any) -> str:
    return _device(_zero(engine).offload_optimizer)


def _cuts_weights(engine: Any) -> bool:
    return bool(engine.zero_optimization_partition_weights())


ROUNDED = "(DeepSpeed's quantizer is CUDA code, which no test here can run)"

REFUSED: tuple[Setting, ...] = (
    (
        '"zero_optimization": {"zenflow": …} (it updates with an AdamW of its own)',
        lambda e: _zero(e).zenflow is not None,
    ),
    (
        # At stages 1 and 2 DeepSpeed takes it for "cpu", without a word.
        '"zero_optimization": {"offload_optimizer": {"device": "nvme"}} (between steps DeepSpeed '
        'keeps slices of no elements, which cannot be verified; use "device": "cpu")',
        lambda e: _optimizer_device(e) == "nvme",
    ),
    (
        '"zero_optimization": {"offload_optimizer": {"super_offload": true}} (it updates with a '
        "CPUAdam of its own)",
        lambda e: e.super_offload(),
    ),
    (
        # The rest of the slices would be updated by a torch.optim.AdamW of DeepSpeed's own.
        '"zero_optimization": {"offload_optimizer": {"ratio": < 1}}',
        lambda e: _optimizer_device(e) != "none" and e.zero_partial_offload() < 1,
    ),
    (
        '"zero_optimization": {"offload_param": {"device": "nvme"}} (untested)',
        lambda e: _device(_zero(e).offload_param) == "nvme",
    ),
    (
        f'"zero_optimization": {{"zero_quantized_weights": true}} {ROUNDED}',
        lambda e: _zero(e).zero_quantized_weights,
    ),
    (
        f'"zero_optimization": {{"zero_quantized_nontrainable_weights": true}} {ROUNDED}',
        lambda e: _zero(e).zero_quantized_nontrainable_weights,
    ),
    (
        f'"zero_optimization": {{"zero_quantized_gradients": true}} {ROUNDED}',
        lambda e: _zero(e).zero_quantized_gradients,
    ),
    (
        '"zero_optimization": {"zero_hpz_partition_size": > 1} below ZeRO stage 3 (DeepSpeed '
        "ignores it there)",
        lambda e: _zero(e).zero_hpz_partition_size > 1 and not _cuts_weights(e),
    ),
    (
        '"zero_optimization": {"elastic_checkpoint": true}',
        lambda e: _zero(e).elastic_checkpoint,
    ),
    (
        '"checkpoint": {"load_universal": true} at ZeRO stage 0',
        lambda e: e.load_universal_checkpoint() and not e.zero_optimization(),
    ),
    (
        # The files would have no checksums, and none of them could be loaded again.
        '"checkpoint": {"checkpoint_serialization": false}',
        lambda e: not e.checkpoint_serialization_enabled(),
    ),
    (
        '"fp16": {"fp16_master_weights_and_grads": true}',
        lambda e: e.fp16_master_weights_and_gradients(),
    ),
    (
        # DeepSpeed has this for its CPUAdam alone.
        '"bf16": {"bf16_master_weights_and_grads": true} without "bf16_optimizer_states": true',
        lambda e: e.bf16_master_weights_and_gradients() and not e.bf16_optimizer_states(),
    ),
    (
        '"bf16": {"bf16_master_weights_and_grads": true} with "offload_optimizer"',
        lambda e: e.bf16_master_weights_and_gradients() and _optimizer_device(e) != "none",
    ),
    (
        '"torch_autocast": {"dtype": "float16"} at ZeRO stages 1 to 3 (DeepSpeed clips by a norm '
        "that has the loss scale in it, and never lowers the scale after an overflow)",
        lambda e: (
            e.torch_autocast_enabled()
            and e.torch_autocast_dtype() == torch.float16
            and e.zero_optimization()
        ),
    ),
    *tensor_refused.REFUSED,
    (
        '"compile": {"deepcompile": true} (its passes are CUDA code, which no test here can run)',
        lambda e: e.is_deepcompile_enabled(),
    ),
    (
        "a model-parallel unit (mpu) for more than sequence or tensor parallelism",
        lambda e: (
            not (e.mpu is None or e.pipeline_parallelism or is_sequence_unit(e.mpu))
            and tensor_size(e) == 1
        ),
    ),
    (
        '"sequence_parallel_size": > 1 in the JSON or a mesh (DeepSpeed does not add up the '
        "gradients of a sequence; pass deepspeed.initialize the mpu of UlyssesSPAttentionHF."
        "register_with_transformers, of the same size)",
        lacks_sequence_groups,
    ),
    (
        '"data_types": {"grad_accum_dtype": "fp32"} in bf16 at ZeRO stage 1 with sequence '
        "parallelism (DeepSpeed's BF16_Optimizer ends in an error; use stage 2)",
        fails_in_the_norm,
    ),
    (
        "sequence parallelism at ZeRO stage 3 with an mpu that has a data-parallel group "
        "(DeepSpeed reduces gradients over that group alone; pass its own mpu, or use stage 2)",
        leaves_sequences_apart,
    ),
    (
        '"zero_optimization": {"reduce_scatter": false} at ZeRO stage 3 with sequence parallelism '
        "(DeepSpeed averages the gradients of parameters larger than a bucket and adds up others)",
        mixes_sums_and_means,
    ),
    *REFUSED_WITH_EXPERTS,
)
"""What a message calls the setting, and whether an engine has it."""


def refuse_unsupported_settings(engine: Any, optimizer_name: str) -> None:
    """Stop before training with a setting that no test holds against the reference.

    Raises:
        NotImplementedError: names the optimizer and every such setting.
    """
    refused = [name for name, is_set in REFUSED if is_set(engine)] + refused_with_pipeline(engine)
    if refused:
        raise NotImplementedError(
            f"{optimizer_name} does not support {', '.join(refused)} yet. Supported are ZeRO "
            "stages 0 to 3 in fp32, bf16 and fp16, with data and sequence parallelism, and offload "
            "to the CPU; stages 0 to 2 in fp32 and bf16 with tensor parallelism; stages 0 and 1 "
            "with pipeline stages."
        )


def refuse_untested_base(engine: Any, optimizer: Optimizer) -> None:
    """Stop a GradPower whose base DeepSpeed would not have let under ZeRO by itself.

    Raises:
        NotImplementedError: the base is not known to be elementwise, and the config does not say
            ``zero_allow_untested_optimizer``.
    """
    if not isinstance(optimizer, GradPower) or isinstance(optimizer.base, MatrixOptimizer):
        return
    base = type(optimizer.base)
    if (
        engine.zero_optimization()
        and not is_elementwise(base)
        and base not in zero_utils.ZERO_SUPPORTED_OPTIMIZERS
        and not engine.zero_allow_untested_optimizer()
    ):
        raise NotImplementedError(
            f"GradPower's base {base.__name__} is untested under ZeRO, which would hand it flat "
            'slices instead of parameters: set "zero_allow_untested_optimizer": true if it is '
            "elementwise"
        )


def refuse_momentum_schedule(engine: Any, optimizer: Optimizer) -> None:
    """Stop a schedule of momentum that the optimizer would not follow.

    DeepSpeed's OneCycle writes Adam's betas, and switches itself off, with a warning, for an
    optimizer whose settings are others.

    Raises:
        NotImplementedError: the config's scheduler is OneCycle, and cycles momentum.
    """
    if engine.client_lr_scheduler or engine.scheduler_name() != "OneCycle":
        return
    cycles = (engine.scheduler_params() or {}).get("cycle_momentum", True)
    if cycles and "betas" not in optimizer.defaults:
        raise NotImplementedError(
            f'{type(optimizer).__name__} does not follow the momentum that "scheduler": '
            '{"type": "OneCycle"} cycles (it writes Adam\'s betas): add "cycle_momentum": false to '
            "the scheduler's params; the learning rate is cycled all the same"
        )
