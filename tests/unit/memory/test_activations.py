"""The closed form against the tensors that autograd really saves."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gradopt_ds.memory import activations
from gradopt_ds.memory.setup import Setup
from tests.distributed.memory_cases import EXPERTS, SMALL

KINDS = {"llama": {}, "qwen2_moe": EXPERTS}


def saved_bytes(model: torch.nn.Module, tokens: torch.Tensor) -> int:
    """Bytes of the storages that autograd saves, without parameters and buffers."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=tokens).loss
    assert loss.isfinite()
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("key_heads", "micro_batch"), [(4, 2), (2, 1), (1, 3)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_bytes_that_autograd_saves(
    kind: str, precision: Any, key_heads: int, micro_batch: int, checkpointing: bool
) -> None:
    setup = Setup(
        precision=precision,
        micro_batch=micro_batch,
        sequence_length=16,
        checkpointing=checkpointing,
    )
    config = AutoConfig.for_model(
        kind, **{**SMALL, **KINDS[kind], "num_key_value_heads": key_heads}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=setup.dtypes.weights)
    model.config.use_cache = False
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    actual = saved_bytes(model, torch.randint(config.vocab_size, (micro_batch, 16)))
    # Offsets of the experts and the loss are not worth a term.
    assert actual == pytest.approx(activations.forward_bytes(config, setup), rel=2e-3)


def test_unknown_layers_are_refused() -> None:
    config = AutoConfig.for_model("gpt2")
    config.num_key_value_heads = 1
    with pytest.raises(ValueError, match="gpt2"):
        activations.forward_bytes(config, Setup())
