"""The loss on held-out sequences, the same number whatever the count of ranks."""

import deepspeed.comm as dist
import numpy as np
import torch
from deepspeed import DeepSpeedEngine

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.data.documents import validation_texts
from gradopt_ds.experiments.pretrain.data.packing import pack
from gradopt_ds.experiments.pretrain.data.tokenizer import Encoder
from gradopt_ds.experiments.pretrain.routing import language_loss
from gradopt_ds.experiments.pretrain.settings import RunSettings


def sequences(settings: RunSettings, encode: Encoder, rank: int, ranks: int) -> torch.Tensor:
    """Return this rank's share ``[n, sequence_length]`` of the run's validation sequences.

    Raises:
        PretrainError: the held-out text does not fill one sequence per rank.
    """
    packed = list(
        pack(
            validation_texts(settings),
            encode,
            encode.end,
            settings.sequence_length,
            settings.validation_sequences,
        )
    )
    if len(packed) < ranks:
        raise PretrainError(
            f"the validation text of {settings.data} fills {len(packed)} sequences of "
            f"{settings.sequence_length} tokens, fewer than {ranks} ranks: raise "
            "--validation-share and --validation-sequences, or shorten --sequence-length"
        )
    return torch.from_numpy(np.stack(packed[rank::ranks])).long()


@torch.no_grad()
def loss(engine: DeepSpeedEngine, own: torch.Tensor, micro_batch: int) -> float:
    """Compute the mean loss in nats per token over all ranks, no router's loss in it.

    Collective.
    """
    engine.eval()
    total = torch.zeros(2, dtype=torch.float64)
    passes = torch.tensor(-(-len(own) // micro_batch), device=engine.device)
    dist.all_reduce(passes, dist.ReduceOp.MAX)
    for first in range(0, int(passes) * micro_batch, micro_batch):
        batch = own[first : first + micro_batch]
        # Under ZeRO 3 a forward pass is collective: a rank with fewer batches must not stop early.
        inputs = (batch if len(batch) else own[:1]).to(engine.device)
        mean = language_loss(engine.module(input_ids=inputs, labels=inputs), engine.module.config)
        total += torch.tensor([float(mean) * len(batch), len(batch)], dtype=torch.float64)
    engine.train()
    total = total.to(engine.device)
    dist.all_reduce(total)
    return float(total[0] / total[1])
