"""How AutoTP would cut a model on the meta device: by DeepSpeed's own rules, without processes.

Source: deepspeed/runtime/engine.py (``_apply_autotp_partitioning``) and module_inject/auto_tp.py
(``_replace_module``, ``_replace_with_config``), release 0.19.8.
"""

from collections.abc import Iterator

from deepspeed.module_inject.auto_tp import AutoTP
from deepspeed.module_inject.autotp_config import (
    AutoTPConfig,
    AutoTPPresets,
    PartitionType,
    TPLayerSpec,
)
from deepspeed.module_inject.tp_plan_converter import TPPlanConverter
from deepspeed.module_inject.tp_shard import AutoTPMeta, get_shard_size_list
from deepspeed.runtime.tensor_parallel.config import _get_hf_tp_plan
from deepspeed.sequence.cross_entropy import validate_vocab_parallel_loss
from torch import nn

from gradopt_ds.integration.parallel.tensor_cut import TensorCut
from gradopt_ds.optim.facts import whole_shape

HEADS = AutoTP._default_lm_head_patterns()
"""What AutoTP takes for an output head: the last component of a module's name."""


def tensor_cuts(model: nn.Module, size: int, preset: str | None = None) -> dict[str, TensorCut]:
    """Return how AutoTP would cut every parameter.

    Args:
        model: of transformers; it may be on the meta device.
        size: number of tensor-parallel ranks.
        preset: ``"preset_model"`` of the JSON's ``"tensor_parallel"``; None for the plan that comes
            with the model.

    Returns:
        Name of the parameter → its cut, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: AutoTP refuses the model, or it is not known here how it would cut it.
    """
    cuts = {name: TensorCut(whole_shape(param)) for name, param in model.named_parameters()}
    if size == 1:
        return cuts
    names: dict[object, str] = {param: name for name, param in model.named_parameters()}
    for param_name, module, axis in _cut_modules(model, preset):
        weight = names[module.weight]  # a tied one has the name of the first module
        whole = cuts[weight].shape[axis]
        meta = AutoTPMeta.from_model_config(getattr(model, "config", None))
        widths = tuple(get_shard_size_list(whole, size, meta, param_name))
        cuts[weight] = TensorCut(cuts[weight].shape, axis, (widths,))
        bias = getattr(module, "bias", None)
        if bias is not None and axis == 0:
            cuts[names[bias]] = TensorCut(whole_shape(bias), 0, (widths,))
    if not any(cut.axis is not None for cut in cuts.values()):
        raise ValueError(f"AutoTP would cut nothing of this {type(model).__name__}")
    return cuts


def _cut_modules(model: nn.Module, preset: str | None) -> Iterator[tuple[str, nn.Module, int]]:
    """Return the modules whose weights are cut, with their names, and along which dimension."""
    rules = _rules(model, preset)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    vocabulary = preset is None and _cuts_vocabulary(model)
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() != 2:
            continue
        is_head = isinstance(module, nn.Linear) and name.split(".")[-1] in HEADS
        is_tied = is_head and weight in embeddings
        if is_tied and vocabulary:
            yield name, module, 0
            continue
        rule = rules.find_matching_spec(f"{name}.weight", kind)
        if rule is None or rule.partition_type == PartitionType.SKIP:
            continue
        if is_tied and rule.gather_output:
            continue  # AutoTP leaves such a head and its embedding whole
        yield name, module, _axis(name, module, rule, is_tied)


def _axis(name: str, module: nn.Module, rule: TPLayerSpec, is_tied: bool) -> int:
    if rule.shape is not None or is_tied:
        what = "is tied to an embedding" if is_tied else "is cut as several sub-parameters"
        raise ValueError(f"{name!r} {what}: how AutoTP would cut it is not counted on paper")
    return 1 if isinstance(module, nn.Embedding) else rule.get_partition_dim()


def _rules(model: nn.Module, preset: str | None) -> AutoTPConfig:
    kind = type(model).__name__
    if preset is not None:
        rules = AutoTPPresets.get_preset(preset)
        if rules is None:
            raise ValueError(f"DeepSpeed's AutoTP has no preset {preset!r}")
        return rules
    try:
        specs = TPPlanConverter.convert(_get_hf_tp_plan(model))
    except ValueError as error:
        why = str(error).rstrip(".")
        raise ValueError(f"AutoTP refuses a {kind}: {why}; or name a preset of AutoTP") from None
    if specs is None:
        raise ValueError(
            f"transformers has no plan for tensor parallelism of a {kind}, and what AutoTP would "
            "guess is not counted on paper: name a preset of AutoTP"
        )
    return AutoTPConfig(layer_specs=specs)


def _cuts_vocabulary(model: nn.Module) -> bool:
    """Tell whether AutoTP cuts a tied head and its embedding by rows, without being asked."""
    plan = _get_hf_tp_plan(model) or {}
    if "embedding_rowwise" not in {style.lower() for style in plan.values()}:
        return False
    try:
        validate_vocab_parallel_loss(model)
    except (ValueError, NotImplementedError):
        return False
    return True
