"""Trainings with transformers' Trainer on one CPU rank; what became of them, as JSON lines.

Trainer sees DeepSpeed's ranks on a CPU only when the process group is there before its arguments.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
}

import deepspeed.ops.adam
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import gradopt_ds
from gradopt_ds import SWAN, matrix_param_groups

FOUR = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
"""The optimizer block of transformers' documentation."""

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}


class CPUAdam(torch.optim.AdamW):
    """In DeepSpeedCPUAdam's place, which takes a minute to compile."""

    def __init__(self, params: Any, adamw_mode: bool = True, **settings: Any) -> None:
        super().__init__(params, **settings)


def optimizer_json(name: str) -> dict[str, Any]:
    params: dict[str, Any] = dict(FOUR)
    if name == "GradPower":
        params["base"] = {"type": "SWAN"}
    if name == "AdamW":
        params["torch_adam"] = True
    return {"optimizer": {"type": name, "params": params}}


def train(output: Path, config: dict[str, Any], dropped: bool = False, **more: Any) -> dict:
    """Two steps: what trained, with which settings, and whether every parameter moved."""
    AcceleratorState._reset_state()
    PartialState(backend="gloo")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, use_cache=False, **SIZES))
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    if dropped:
        more["optimizers"] = (SWAN(matrix_param_groups(model)), None)
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=2, per_device_train_batch_size=2, report_to=[],
        save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
        learning_rate=3e-4, adam_beta1=0.8, adam_beta2=0.97, adam_epsilon=1e-6, weight_decay=0.25,
        accelerator_config={"use_configured_state": True},
        deepspeed={
            "train_micro_batch_size_per_gpu": "auto",
            "zero_optimization": {"stage": 2},
            **config,
        },
    )  # fmt: skip
    texts = [{key: torch.arange(i, i + 8) for key in ("input_ids", "labels")} for i in range(50)]
    trainer = Trainer(model=model, args=arguments, train_dataset=texts, **more)
    try:
        trainer.train()
    except ValueError as error:
        return {"error": str(error)}
    optimizer = trainer.model_wrapped.basic_optimizer
    keys = ("rule", "lr", "lr_scale", "betas", "eps", "weight_decay", "power")
    moved = [not torch.equal(before[name], param) for name, param in model.named_parameters()]
    return {
        "optimizer": type(optimizer).__name__,
        "groups": [{key: g[key] for key in keys if key in g} for g in optimizer.param_groups],
        "moved": all(moved),
    }


def main(output: Path) -> None:
    deepspeed.ops.adam.DeepSpeedCPUAdam = CPUAdam
    offload = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    ours = {"optimizer_cls_and_kwargs": gradopt_ds.trainer_optimizer("SWAN", lr=0.01, alpha=0.2)}
    for name in ("SWAN", "PolarGradPower", "AdamPower", "GradPower"):
        print(json.dumps({"run": name, **train(output, optimizer_json(name))}), flush=True)
    for run, config, more in (
        ("dropped for the JSON's", optimizer_json("AdamW"), {"dropped": True}),
        ("dropped for Trainer's", {}, {"dropped": True}),
        ("made by Trainer", {}, ours),
        ("converted", offload, ours),
    ):
        print(json.dumps({"run": run, **train(output, config, **more)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
