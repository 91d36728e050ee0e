import pytest

from gradopt_ds.integration.checkpoints.resume import refuse_another_precision

FP32 = {"state": {}, "param_groups": []}
HALF = {"dynamic_loss_scale": False, "optimizer_state_dict": FP32}  # of DeepSpeed's wrapper


def test_at_stage_0_half_precision_and_fp32_do_not_load_each_other() -> None:
    refuse_another_precision(FP32, FP32)
    refuse_another_precision(HALF, HALF)
    with pytest.raises(ValueError, match="saved at ZeRO stage 0 in fp32, .* in bf16 or fp16: set"):
        refuse_another_precision(FP32, HALF)
    with pytest.raises(ValueError, match="in bf16 or fp16, and the engine trains in fp32"):
        refuse_another_precision(HALF, FP32)
