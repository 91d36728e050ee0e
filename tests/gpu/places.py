"""What ranks run on in the tests of this folder."""

from tests.distributed.harness import Place

NCCL = Place("cuda", "nccl")
"""One rank a GPU, as in training."""
SHARED = Place("cuda", "gloo")
"""Several ranks on one GPU, which NCCL refuses."""
