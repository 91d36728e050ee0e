"""Checkpoints of several tags, and folders that each node has for itself."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.distributed import checkpoint_engines as worker
from tests.distributed.checkpoint_cases import STAGE_2, STAGE_3, Case
from tests.distributed.harness import distributed
from tests.distributed.test_damaged_checkpoints import ALL, names_read, truncate


@distributed(2)
def test_weights_of_another_tag_are_refused() -> None:
    """At stage 3 DeepSpeed takes the weights alone from ``latest``, whatever the tag."""
    path = worker.own_folder("two tags")
    engine = worker.start(STAGE_3)
    engine.save_checkpoint(path, tag="first")
    engine.destroy()
    worker.save(STAGE_3, path)
    engine = worker.start(STAGE_3, seed=7)
    alone = {"load_module_only": True, "load_optimizer_states": False}
    worker.assert_raises(
        ValueError,
        "which is 'half', and not from 'first'",
        lambda: engine.load_checkpoint(path, tag="first", **alone),
    )
    engine.load_checkpoint(path, tag="half", **alone)
    engine.destroy()


@distributed(2)
def test_each_node_resumes_from_its_own_storage() -> None:
    """Two nodes of one rank each: two folders, ``latest`` in the first alone."""
    os.environ["LOCAL_RANK"] = "0"
    local = {"checkpoint": {"use_node_local_storage": True}}
    for case in ALL:
        path = worker.own_folder(f"node {dist.get_rank()} {case.name}")
        unbroken = worker.start(case, **local)
        worker.train(unbroken, range(worker.HALF))
        unbroken.save_checkpoint(path, tag="half")
        worker.train(unbroken, range(worker.HALF, worker.END))
        assert Path(path, "latest").exists() == (dist.get_rank() == 0)
        resumed = worker.start(case, seed=7, **local)
        assert resumed.load_checkpoint(path)[0] is not None
        worker.train(resumed, range(worker.HALF, worker.END))
        worker.assert_equal(worker.weights(unbroken), worker.weights(resumed), case.name)
        unbroken.destroy()
        resumed.destroy()
        _second_node_is_damaged(case, path, local)
    os.environ["LOCAL_RANK"] = os.environ["RANK"]


def _second_node_is_damaged(case: Case, path: str, local: dict[str, Any]) -> None:
    damaged = Path(f"{path} damaged")
    shutil.copytree(path, damaged)
    file = damaged / names_read(case)[0 if case.stage < 3 else 1]
    if dist.get_rank() == 1:
        truncate(file)
    engine = worker.start(case, seed=7, **local)
    named = str(file).replace(f"node {dist.get_rank()}", "node 1")
    worker.assert_raises(ValueError, named, lambda: engine.load_checkpoint(str(damaged)))
    engine.destroy()


@distributed(2)
def test_ranks_that_would_load_different_tags_are_refused() -> None:
    """As with a ``latest`` that one rank sees before and the other after it was rewritten."""
    path = worker.saved_once(STAGE_2)
    engine = worker.start(STAGE_2, seed=7)
    tag = "half" if dist.get_rank() == 0 else "other"
    worker.assert_raises(
        ValueError,
        "the ranks are to load different checkpoints",
        lambda: engine.load_checkpoint(path, tag=tag),
    )
    engine.destroy()
