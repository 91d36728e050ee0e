"""Engines that are saved and loaded, and how two of them are compared."""

import io
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import LossScalerBase
from torch import Tensor

from tests.distributed.checkpoint_cases import Case, engine_config
from tests.distributed.engines import assert_raises
from tests.distributed.harness import folder
from tests.distributed.model import LENGTH, VOCABULARY, TinyLM, build_model
from tests.distributed.moe_model import TinyMoe, build_moe

GLOBAL_BATCH = 24
"""Divides by every number of ranks, so that all of them see the same batch."""

HALF, END = 2, 4
"""Steps at which a checkpoint is saved, and a run ends."""


def start(case: Case, *, seed: int = 0, universal: bool = False, **changes: Any) -> Any:
    """An engine for a case; another seed gives other weights, which loading must replace."""
    config = engine_config(case, GLOBAL_BATCH // dist.get_world_size())
    if universal:
        config["checkpoint"] = {"load_universal": True}
    config = {**config, **changes}
    dense = case.model == "dense"
    model = build_model(seed) if dense else build_moe(seed, balanced=False)
    if case.zero_init:
        with deepspeed.zero.Init(config_dict_or_path=config):
            cut = TinyLM() if dense else TinyMoe(balanced=False)
        for from_, to in zip(model.parameters(), cut.parameters(), strict=True):
            with deepspeed.zero.GatheredParameters([to], modifier_rank=0), torch.no_grad():
                to.copy_(from_)
        model = cut
    if case.frozen:
        model.register_buffer("seen", torch.tensor([seed + 1.0, 2.0]))
        model.blocks[0].square.weight.requires_grad_(False)
    return deepspeed.initialize(model=model, config=config)[0]


def train(engine: Any, steps: range, overflow_at: int | None = None) -> None:
    """Steps on a global batch that does not depend on the number of ranks."""
    each = GLOBAL_BATCH // dist.get_world_size()
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(VOCABULARY, (GLOBAL_BATCH, LENGTH), generator=generator)
        loss = engine(batch[dist.get_rank() * each :][:each])
        engine.backward(loss * (float("inf") if step == overflow_at else 1.0))
        engine.step()


def weights(engine: Any) -> dict[str, Tensor]:
    """The model's weights and buffers, whole."""
    tensors = {name: buffer.clone() for name, buffer in engine.module.named_buffers()}
    for name, param in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([param], enabled=hasattr(param, "ds_id")):
            tensors[name] = param.detach().clone()
    return tensors


def whole_state(engine: Any) -> dict[str, Tensor]:
    """Masters and elementwise state of every parameter, whole: the slices of all ranks joined.

    Of a pipeline stage: the slices of the ranks that have it.
    """
    ranks = engine.optimizer.dp_process_group
    names = {param: name for name, param in engine.module.named_parameters()}
    state = {}
    for slice_, members in _slices(engine.optimizer):
        tensors = {"fp32": slice_.detach(), **engine.basic_optimizer.state.get(slice_, {})}
        for key, tensor in tensors.items():
            if tensor.shape != slice_.shape:
                continue
            parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(ranks))]
            dist.all_gather(parts, tensor.contiguous(), group=ranks)
            for param, whole_from in members:
                state[f"{names[param]}.{key}"] = whole_from(parts)
    return state


Joined = Callable[[list[Tensor]], Tensor]


def _slices(wrapper: Any) -> Iterator[tuple[Tensor, list[tuple[Tensor, Joined]]]]:
    """Each slice, and how its parameters come out of the slices of all ranks."""
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        for slice_, params in zip(
            wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True
        ):
            chunks = [param.ds_tensor.ds_numel for param in params]
            offsets = accumulate(chunks, initial=0)
            yield (
                slice_,
                [
                    (param, partial(_from_chunks, param.ds_shape, offset, chunk))
                    for param, offset, chunk in zip(params, offsets, chunks, strict=False)
                ],
            )
        return
    kind = "bit16" if hasattr(wrapper, "bit16_groups") else "bf16"
    slices = getattr(wrapper, "single_partition_of_fp32_groups", None)
    slices = slices or wrapper.fp32_groups_flat_partition
    flats = getattr(wrapper, f"{kind}_groups_flat")
    for slice_, flat, params in zip(slices, flats, getattr(wrapper, f"{kind}_groups"), strict=True):
        yield (
            slice_,
            [
                (
                    param,
                    partial(
                        _from_flat, param.shape, param.storage_offset() - flat.storage_offset()
                    ),
                )
                for param in params
            ],
        )


def _from_chunks(shape: torch.Size, offset: int, chunk: int, parts: list[Tensor]) -> Tensor:
    return torch.cat([part[offset:][:chunk] for part in parts])[: shape.numel()].view(shape)


def _from_flat(shape: torch.Size, offset: int, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts)[offset:][: shape.numel()].view(shape)


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Bitwise equality, all the way down."""
    if isinstance(a, Tensor):
        # DeepSpeed leaves the padding of stage 3 uninitialised: it may well be NaN.
        torch.testing.assert_close(
            b, a, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{path}: {text}"
        )
    elif isinstance(a, LossScalerBase):
        assert_equal(vars(a), vars(b), path)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: {a.keys()} and {b.keys()}"
        for key in a:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (item, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(item, other, f"{path}[{index}]")
    else:
        assert a == b, f"{path}: {a!r} and {b!r}"


def own_folder(name: str) -> str:
    """A folder for this number of ranks."""
    return str(folder_of(dist.get_world_size(), name))


def folder_of(ranks: int, name: str) -> Path:
    """Where jobs on so many ranks leave something."""
    return folder(f"{ranks}ranks", name)


@cache
def saved_once(case: Case) -> str:
    """The folder of a case's checkpoint, for tests that only read it."""
    path = own_folder(f"saved {case.name}")
    save(case, path)
    return path


def save(case: Case, path: str, **changes: Any) -> None:
    """A checkpoint after ``HALF`` steps."""
    engine = start(case, **changes)
    train(engine, range(HALF))
    engine.save_checkpoint(path, tag="half")
    engine.destroy()


def assert_refused(engine: Any, path: str, message: str) -> None:
    """Loading fails with this message, and nothing has been overwritten."""
    before = io.BytesIO()
    torch.save([weights(engine), engine.optimizer.state_dict()], before)
    before.seek(0)
    assert_raises(ValueError, message, lambda: engine.load_checkpoint(path))
    expected = torch.load(before, weights_only=False)
    assert_equal(expected, [weights(engine), engine.optimizer.state_dict()])
    train(engine, range(1))
