"""Commands from PyPI, unmodified, that know the library by ``gradopt-ds run``."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gradopt_ds.experiments.common.shared_memory import free_shared_memory
from tests.conftest import ROOT
from tests.distributed.launch import free_port

FOUR = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
CONFIG = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 2},
    "optimizer": {"type": "SWAN", "params": {**FOUR, "alpha": 0.2}},
}


def prepare(folder: Path) -> None:
    """A tiny LLaMA, its tokenizer and a data set of paragraphs, on disk."""
    text = (ROOT / "LICENSE").read_text()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    names = dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder / "model")
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(num_attention_heads=2, **sizes, **ids)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    (folder / "data").mkdir()
    paragraphs = filter(None, map(str.strip, text.split("\n\n")))
    lines = [json.dumps({"text": paragraph}) for paragraph in paragraphs]
    (folder / "data/train.jsonl").write_text("\n".join(lines))
    (folder / "ds.json").write_text(json.dumps(CONFIG))


def launch(folder: Path, words: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of a Python that starts with these words, on one rank."""
    port = free_port()
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", str(ROOT))])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    finished = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **rank, **address, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    free_shared_memory(port)
    return finished.returncode, finished.stdout


def test_sft_of_trl_trains_with_swan(tmp_path: Path) -> None:
    """Nothing imports the library but the command before ``accelerate launch``."""
    pytest.importorskip("trl")
    prepare(tmp_path)
    words = [
        *("-m", "gradopt_ds.command", "run", sys.executable, "-m", "accelerate.commands.launch"),
        *("--use_deepspeed", "--deepspeed_config_file", "ds.json"),
        *("--num_processes", "1", "--num_machines", "1", "--main_process_port", str(free_port())),
        *("--module", "trl.scripts.sft", "--model_name_or_path", "model"),
        *("--dataset_name", "data", "--output_dir", "out", "--max_steps", "2"),
        *("--per_device_train_batch_size", "2", "--max_length", "32", "--report_to", "none"),
        *("--learning_rate", "3e-4", "--bf16", "false", "--save_strategy", "no"),
        *("--logging_steps", "1", "--disable_tqdm", "true"),
    ]
    status, output = launch(tmp_path, words)
    assert status == 0, output[-5000:]
    assert "SWAN on ZeRO slices: 7 of 7 matrices lie whole on one rank" in output
    assert output.count("'loss':") == 2, output[-3000:]
    assert (tmp_path / "out/model.safetensors").is_file()


def test_without_the_command_the_name_is_unknown(tmp_path: Path) -> None:
    """DeepSpeed says so: nothing trains with something else."""
    config = {"train_batch_size": 1, "optimizer": {"type": "SWAN", "params": {"lr": 0.1}}}
    start = f"deepspeed.initialize(model=torch.nn.Linear(4, 4), config={config})"
    status, output = launch(tmp_path, ("-c", f"import deepspeed, torch; {start}"))
    assert status != 0
    assert "SWAN is not a supported DeepSpeed Optimizer" in output, output[-5000:]
