"""An optimizer object of this library in whose place another one would train in silence."""

from torch.optim import Optimizer

from gradopt_ds.optim.resumed_settings import BASE_LR
from gradopt_ds.optim.unattached import unattached_over


def refuse_conversion(optimizer: Optimizer) -> None:
    """Refuse somebody else's optimizer over the parameter groups of one of this library's.

    Raises:
        ValueError: says what was converted, and what to write instead.
    """
    for group in optimizer.param_groups:
        if BASE_LR in group and ("algorithm" in group or "power" in group):
            mine = group.get("algorithm", "GradPower")
            raise ValueError(
                f"{type(optimizer).__name__} was made from the parameter groups of a {mine}, and "
                'would train in its place: with "offload_optimizer" Accelerate does so with every '
                f"optimizer object. {_in_json(mine)} instead of making the object, or "
                '"zero_force_ds_cpu_optimizer": false at the top of the JSON'
            )


def refuse_replacing(optimizer: Optimizer) -> None:
    """Refuse an optimizer over parameters for which one of this library's was made by hand.

    Args:
        optimizer: built from the JSON, or somebody else's.

    Raises:
        ValueError: says what was dropped, and what to write instead.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    dropped = [other for other in unattached_over(params) if other is not optimizer]
    if dropped:
        mine = type(dropped[0]).__name__
        raise ValueError(
            f"a {mine} was made for these parameters, and DeepSpeed would train them with "
            f"{type(optimizer).__name__} instead. transformers' Trainer drops the object in "
            f"`optimizers` under DeepSpeed. {_in_json(mine)}; or, if the JSON has no optimizer, "
            "Trainer(optimizer_cls_and_kwargs=gradopt_ds.trainer_optimizer(…)), or in a script of "
            "your own deepspeed.initialize(optimizer=…). `del` an object that is no longer wanted"
        )


def _in_json(name: str) -> str:
    name = {"Muon": "MatrixMuon"}.get(name, name)  # "Muon" is DeepSpeed's own
    return f'Write "optimizer": {{"type": "{name}", "params": {{…}}}} in the JSON'
