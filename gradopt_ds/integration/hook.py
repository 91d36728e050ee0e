"""The seam: nine methods of ``DeepSpeedEngine``, each extended once.

DeepSpeed builds an optimizer by name without looking at the model, wraps it for ZeRO without
telling it where its parameters went, and loads a checkpoint without asking whose it is. The
extensions add just that, and only for this library's optimizers; any other config takes
DeepSpeed's own path, unless its optimizer would train in the place of an object of this library.
"""

from functools import wraps
from pathlib import Path
from typing import Any

from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import utils as zero_utils
from torch.optim import Optimizer

from gradopt_ds.integration.checkpoints.configured import warn_of_lr_without_schedule
from gradopt_ds.integration.checkpoints.files import Wanted
from gradopt_ds.integration.checkpoints.recording import record_in_state
from gradopt_ds.integration.checkpoints.resume import check_before_loading, load_universal
from gradopt_ds.integration.checkpoints.tag import agree_on_tag
from gradopt_ds.integration.checkpoints.verdict import same_end
from gradopt_ds.integration.config_keys import refuse_unknown_config_keys
from gradopt_ds.integration.dropped import refuse_conversion, refuse_replacing
from gradopt_ds.integration.initial_weights import warn_of_default_weights
from gradopt_ds.integration.log import log_on_rank_0, show_by_default
from gradopt_ds.integration.optimizer_json import build_optimizer
from gradopt_ds.integration.parallel import auto_ep
from gradopt_ds.integration.parallel.copies import separate_copies
from gradopt_ds.integration.parallel.pipeline_build import build_on_stages
from gradopt_ds.integration.parallel.pipeline_norm import clip_by_the_whole_norm
from gradopt_ds.integration.parallel.pipeline_ties import copy_ties, keep_copies_equal
from gradopt_ds.integration.parallel.sequence import required_loss
from gradopt_ds.integration.parallel.tensor import (
    check_before_training,
    read_tensor_parallel,
    remember_whole_shapes,
)
from gradopt_ds.integration.parallel.whole_model import WholeModel
from gradopt_ds.integration.registry import canonical_name
from gradopt_ds.integration.report import log_rules
from gradopt_ds.integration.step_size import warn_of_adamw_rate
from gradopt_ds.integration.unsupported import (
    refuse_momentum_schedule,
    refuse_unsupported_settings,
    refuse_untested_base,
)
from gradopt_ds.integration.zero.attach import attach
from gradopt_ds.integration.zero.discarded_gradients import discard_on_zero_grad
from gradopt_ds.integration.zero.slicing import read_slices
from gradopt_ds.integration.zero.unwritten_gradients import clear_unwritten_gradients
from gradopt_ds.optim import GradPower, MatrixOptimizer, base_of
from gradopt_ds.optim.unattached import forget, in_use_when_made

INSTALLED = "_gradopt_ds_installed"


def install() -> None:
    """Extend ``DeepSpeedEngine``; a second call does nothing."""
    if getattr(DeepSpeedEngine, INSTALLED, False):
        return
    _extend("_configure_tensor_parallel", _configure_tensor_parallel)
    _extend("_configure_expert_parallel", _configure_expert_parallel)
    _extend("_is_supported_optimizer", _is_supported_optimizer)
    _extend("_configure_basic_optimizer", _configure_basic_optimizer)
    _extend("_do_optimizer_sanity_check", _do_optimizer_sanity_check)
    _extend("_configure_optimizer", _configure_optimizer)
    _extend("load_checkpoint", _load_checkpoint_of_one_tag)
    _extend("_load_checkpoint", _load_checkpoint)
    _extend("_load_zero_checkpoint", _load_zero_checkpoint)
    setattr(DeepSpeedEngine, INSTALLED, True)
    show_by_default()


class IdleStep:
    """The step of an optimizer that is being wrapped: it does nothing.

    Some wrappers allocate state by taking a step on zero gradients while they are built. It would
    decay the weights and advance AdamW's bias correction before training begins.

    Args:
        optimizer: its own step, patched by a user or by a scheduler perhaps, is kept for later.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.patched = vars(optimizer).get("step")

    def __call__(self, closure: object = None) -> None:
        """Do nothing."""

    @staticmethod
    def take_off(optimizer: Optimizer | None) -> None:
        """Give an optimizer back the step that it had, if it has been made idle."""
        idle = vars(optimizer).get("step") if optimizer is not None else None
        if isinstance(idle, IdleStep):
            del vars(optimizer)["step"]
            if idle.patched is not None:
                vars(optimizer)["step"] = idle.patched


def is_ours(optimizer: object) -> bool:
    """Tell whether an optimizer needs this library's integration."""
    return isinstance(optimizer, MatrixOptimizer | GradPower)


def _extend(method: str, extension: Any) -> None:
    original = getattr(DeepSpeedEngine, method)

    @wraps(original)
    def extended(engine: Any, *args: Any, **kwargs: Any) -> Any:
        return extension(original, engine, *args, **kwargs)

    setattr(DeepSpeedEngine, method, extended)


def _configure_tensor_parallel(original: Any, engine: Any, model: Any, *args: Any) -> Any:
    """Remember the whole model while AutoTP cuts it."""
    ours = canonical_name(engine.optimizer_name()) or is_ours(engine.client_optimizer)
    if not ours or engine.zero_optimization_partition_weights():  # refused later, by name
        return original(engine, model, *args)
    with same_end():
        whole = WholeModel.read(model)
    sources = original(engine, model, *args)
    if tensor := read_tensor_parallel(engine, model):
        with same_end():
            whole.carry_over(model, tensor.cuts, tensor.rank, engine.client_optimizer)
    return sources


def _configure_expert_parallel(original: Any, engine: Any, *args: Any, **kwargs: Any) -> Any:
    """Replace layers as AutoEP does; its failure is explained where its reason is known."""
    try:
        return original(engine, *args, **kwargs)
    except TypeError as error:
        if canonical_name(engine.optimizer_name()) is not None:
            auto_ep.explain_failure(error)
        raise


def _is_supported_optimizer(original: Any, engine: Any, optimizer_name: str) -> bool:
    return canonical_name(optimizer_name) is not None or bool(original(engine, optimizer_name))


def _configure_basic_optimizer(original: Any, engine: Any, model_parameters: Any) -> Optimizer:
    """Build by name, from the model."""
    name = canonical_name(engine.optimizer_name())
    if name is None:
        built: Optimizer = original(engine, model_parameters)
        return built
    _refuse_settings(engine, name)
    settings, module = engine.optimizer_params(), engine.module
    if engine.autotp_size() <= 1 and (tensor := read_tensor_parallel(engine, module)):
        remember_whole_shapes(module, tensor)
    if engine.pipeline_parallelism:
        return build_on_stages(name, settings, module, model_parameters)
    return build_optimizer(name, settings, module, model_parameters)


def _refuse_settings(engine: Any, optimizer_name: str) -> None:
    refuse_unsupported_settings(engine, optimizer_name)
    refuse_unknown_config_keys(engine._config._param_dict)


def _do_optimizer_sanity_check(original: Any, engine: Any, basic_optimizer: Optimizer) -> Any:
    """Look at an optimizer for the last time before it is wrapped, however it was made."""
    if not is_ours(basic_optimizer):
        refuse_conversion(basic_optimizer)
    if not is_ours(basic_optimizer) or engine.client_optimizer is None:
        refuse_replacing(basic_optimizer)
    if is_ours(basic_optimizer):
        forget(basic_optimizer)
        if engine.client_optimizer is not None:
            _refuse_settings(engine, type(basic_optimizer).__name__)
        refuse_untested_base(engine, basic_optimizer)
        refuse_momentum_schedule(engine, basic_optimizer)
        if type(basic_optimizer) not in zero_utils.ZERO_SUPPORTED_OPTIMIZERS:
            zero_utils.ZERO_SUPPORTED_OPTIMIZERS.append(type(basic_optimizer))
        log_rules(engine.module, basic_optimizer)
        warn_of_default_weights(engine.module)
        warn_of_adamw_rate(basic_optimizer)
        if tensor := read_tensor_parallel(engine, engine.module):
            separate_copies(basic_optimizer, tensor.cuts)
        vars(basic_optimizer)["step"] = IdleStep(basic_optimizer)
    return original(engine, basic_optimizer)


def _configure_optimizer(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
    """Wrap, then tell the optimizer where its matrices are."""
    try:
        with in_use_when_made():
            original(engine, *args, **kwargs)
    finally:
        IdleStep.take_off(engine.basic_optimizer)
    optimizer = engine.basic_optimizer
    if is_ours(optimizer):
        slices = read_slices(engine.optimizer, optimizer)
        tensor = read_tensor_parallel(engine, engine.module)
        if tensor:
            check_before_training(engine, base_of(optimizer), tensor)
        log_on_rank_0(attach(engine, optimizer, slices, tensor))
        if engine.sequence_parallel_size > 1:
            log_on_rank_0(required_loss(engine))
        clear_unwritten_gradients(engine.optimizer)
        discard_on_zero_grad(engine.optimizer)
        record_in_state(engine, optimizer, slices, tensor)
        if engine.pipeline_parallelism:
            clip_by_the_whole_norm(engine)
            keep_copies_equal(engine)


def _load_checkpoint_of_one_tag(
    original: Any, engine: Any, load_dir: str, tag: str | None = None, *args: Any, **kwargs: Any
) -> Any:
    """Load the same checkpoint on all ranks."""
    if not is_ours(engine.basic_optimizer):
        return original(engine, load_dir, tag, *args, **kwargs)
    tag = agree_on_tag(engine, load_dir, tag)
    loaded = original(engine, load_dir, tag, *args, **kwargs)
    copy_ties(engine.module)
    warn_of_lr_without_schedule(engine)
    return loaded


def _load_checkpoint(
    original: Any, engine: Any, load_dir: str, tag: str, *args: Any, **kwargs: Any
) -> Any:
    """Look at a checkpoint before anything is overwritten."""
    if is_ours(engine.basic_optimizer):
        names = ("load_optimizer_states", "load_module_only")
        wanted = Wanted(**{name: bool(kwargs[name]) for name in names if name in kwargs})
        check_before_loading(engine, Path(load_dir, str(tag)), wanted)
    return original(engine, load_dir, tag, *args, **kwargs)


def _load_zero_checkpoint(
    original: Any, engine: Any, load_dir: str, tag: str, load_optimizer_states: bool = True
) -> Any:
    """Load a universal checkpoint with every group's own settings and state."""
    if is_ours(engine.basic_optimizer) and engine.load_universal_checkpoint():
        load_universal(engine, Path(load_dir, str(tag)), load_optimizer_states)
        return True
    return original(engine, load_dir, tag, load_optimizer_states)
