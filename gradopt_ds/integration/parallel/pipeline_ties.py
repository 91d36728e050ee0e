"""Layers that lie on several pipeline stages: which can be kept equal, and how they are.

DeepSpeed adds up the gradients of the copies that a ``TiedLayerSpec`` makes, and every stage then
takes a step of its own. Their arithmetic differs: matrices of one shape are computed together, and
other stages have other ones. So after a step the first copy is sent to the others.
"""

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.pipe.module import PipelineModule, TiedLayerSpec
from torch import nn


def is_another_copy(param: torch.Tensor) -> bool:
    """Tell whether a parameter is a copy of one that an earlier stage has."""
    return bool(getattr(param, "ds_pipe_replicated", False))


def problems_of_ties(module: PipelineModule) -> list[str]:
    """Say which layers lie on several stages, and cannot be kept equal or be saved."""
    return [*_copied_modules(module), *_untied_attributes(module), *_unsaved_layers(module)]


def keep_copies_equal(engine: Any) -> None:
    """Let every step end with the first copy of each tied layer on all its stages."""
    if not any(len(tie["ranks"]) > 1 for tie in engine.module.tied_comms.values()):
        return
    take_step = engine._take_model_step

    def take_step_and_copy(*args: Any, **kwargs: Any) -> None:
        take_step(*args, **kwargs)
        copy_ties(engine.module)

    engine._take_model_step = take_step_and_copy


def copy_ties(module: nn.Module) -> None:
    """Send the first copy of each tied layer to the others. Collective over their stages."""
    if isinstance(module, PipelineModule):
        with torch.no_grad():
            module._synchronize_tied_weights()


def layer_files(module: PipelineModule, folder: Path) -> list[Path]:
    """Return the files in a checkpoint's folder from which DeepSpeed loads a stage's layers."""
    return [
        Path(module.ckpt_layer_path(str(folder), index))
        for index, layer in enumerate(module.forward_funcs)
        if hasattr(layer, "load_state_dict")
    ]


def _copied_modules(module: PipelineModule) -> list[str]:
    """Name modules that were handed over as objects, twice, and have become two."""
    stages: dict[nn.Parameter, set[int]] = {}
    layers: dict[nn.Parameter, list[int]] = {}
    for index, layer in enumerate(module._layer_specs):
        for param in layer.parameters() if isinstance(layer, nn.Module) else ():
            stages.setdefault(param, set()).add(module.stage_owner(index))
            layers.setdefault(param, []).append(index)
    shared = {tuple(layers[param]) for param, on in stages.items() if len(on) > 1}
    return [
        f"layers {', '.join(map(str, indices))} share a parameter and lie on different pipeline "
        "stages, where each copy would go its own way: make each a deepspeed.pipe.TiedLayerSpec"
        for indices in sorted(shared)
    ]


def _untied_attributes(module: PipelineModule) -> list[str]:
    problems = []
    for key, tie in module.tied_comms.items():
        tied = set(tie["weight_attr"])
        loose = [
            name
            for name, param in tie["module"].named_parameters()
            if param.requires_grad and name not in tied
        ]
        if loose and len(tie["ranks"]) > 1:
            problems.append(
                f"the tied layer {key!r} has parameters that its tied_weight_attr does not name, "
                f"and whose copies would go their own ways: add {', '.join(map(repr, loose))} to it"
            )
    return problems


def _unsaved_layers(module: PipelineModule) -> list[str]:
    """Name tied layers that DeepSpeed does not save: it leaves out those with a ``forward_fn``."""
    first: dict[str, int] = {}
    saved = set()
    for index, spec in enumerate(module._layer_specs):
        if not isinstance(spec, TiedLayerSpec):
            continue
        stage = module.stage_owner(index)
        if first.setdefault(spec.key, stage) == stage and spec.forward_fn is None:
            saved.add(spec.key)
    return [
        f"on its first stage the tied layer {key!r} has a forward_fn everywhere, and DeepSpeed "
        "would leave its weights out of checkpoints: make forward() do there what the first "
        "forward_fn does"
        for key in first
        if key not in saved
    ]
