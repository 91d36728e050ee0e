"""Which checkpoint is loaded: the same on all ranks."""

from pathlib import Path
from typing import Any

import torch.distributed as dist


def agree_on_tag(engine: Any, load_dir: str, tag: str | None) -> str | None:
    """Agree on the tag to load. Collective.

    Without one DeepSpeed reads the file ``latest``, each rank by itself: where it is not visible
    (a node's own storage: it is written on the first node alone) that rank loads nothing.

    Args:
        engine: the engine that is about to load.
        load_dir: folder of all checkpoints.
        tag: what the caller asks for.

    Returns:
        None if there is neither a tag nor a ``latest`` on any rank.

    Raises:
        ValueError: the ranks name different tags.
    """
    name = "latest_universal" if engine.load_universal_checkpoint() else "latest"
    latest = Path(load_dir, name)
    if tag is None and latest.is_file():
        tag = latest.read_text().strip()
    tags: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(tags, None if tag is None else str(tag))
    named = sorted({each for each in tags if each is not None})
    if len(named) > 1:
        raise ValueError(f"the ranks are to load different checkpoints ({latest}, or tag): {tags}")
    return named[0] if named else None
