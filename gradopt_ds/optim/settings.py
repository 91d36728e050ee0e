"""Checked settings: one vocabulary of types for the constructors and for DeepSpeed's JSON.

The constructor of each optimizer is the only place where its settings, their defaults and their
ranges are written. ``checked`` makes it enforce them, whoever calls it.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, validate_call

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""The decay rate of a moving average: ``0 <= beta < 1``."""
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Betas = Annotated[tuple[Decay, Decay], Field(strict=False)]
"""Adam's two decay rates; JSON has no tuples, so a list of two will do."""

ParamGroups = Annotated[Iterable[Any], SkipValidation]
"""Parameters or parameter groups, as ``torch.optim`` takes them."""

ADAMW_STEP = 0.2
"""Root mean square of AdamW's steps over its learning rate, as training shows it (Moonlight, arXiv
2502.16982: 0.2 to 0.4). A rule whose steps have it can take AdamW's rate."""

STRICT: Any = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")
"""No silent conversion: ``"1e-3"`` is not a number and an unknown name is an error."""

checked = validate_call(config=STRICT)
"""Decorator: raise ``pydantic.ValidationError`` for an argument of wrong type or range."""


class AuxAdamW(BaseModel):
    """Settings of the AdamW that updates what is not a matrix: embeddings, head, norms, biases.

    Attributes:
        lr: learning rate; schedulers keep its ratio to the matrix learning rate.
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


Aux = Annotated[AuxAdamW, Field(strict=False)]
"""An :class:`AuxAdamW`, or the mapping that JSON has in its place."""
