"""What a user may say about the exchange."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

WIRE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The dtypes that pieces travel in, under DeepSpeed's names. float16 is not among them: gradients
below 6e-8 would be lost."""

Strategy = Literal["local", "owner", "gram"]


class ExchangeSettings(BaseModel):
    """Settings of the exchange between ZeRO's slices and whole matrices.

    Attributes:
        exchange_bucket_size: bytes that the exchange, and the rule on what it brings, may occupy on
            a rank at a time. A matrix that does not fit is exchanged alone.
        communication_data_type: what the pieces travel in; momentum and weights keep theirs.
            bf16 halves the traffic, and rounds gradients or momentum and the updates.
        exchange_strategy: glob pattern on parameter names → ``"owner"`` or ``"gram"``, for cut
            matrices that the planner should not decide on.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    exchange_bucket_size: int = Field(default=2**29, gt=0)
    communication_data_type: Literal["fp32", "bf16"] = "fp32"
    exchange_strategy: dict[str, Literal["owner", "gram"]] = Field(default_factory=dict)

    @property
    def wire_dtype(self) -> torch.dtype:
        """What the pieces travel in."""
        return WIRE_DTYPES[self.communication_data_type]
