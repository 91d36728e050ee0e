"""What a container or a job may still take of the host's memory: the limits of control groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Version:
    """Names of the files of one version of control groups.

    Attributes:
        limit: holds bytes, or ``max``.
        used: holds bytes, of cached files too.
        reclaimable: the line of ``memory.stat`` with the bytes of cached files that are given back
            when somebody needs them.
    """

    limit: str
    used: str
    reclaimable: str


V1 = Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Version("memory.max", "memory.current", "inactive_file")


def allowed_bytes(own: Path = OWN, root: Path = ROOT) -> int | None:
    """Count the bytes that this process's control groups still allow; None without a limit.

    Args:
        own: lists the control groups of the process.
        root: where they are mounted.
    """
    left = [_left(folder, version) for folder, version in _groups(own, root)]
    return min((size for size in left if size is not None), default=None)


def _groups(own: Path, root: Path) -> Iterator[tuple[Path, Version]]:
    """Yield the process's group and all above it: each one's limit holds."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        names = Path(path.lstrip("/"))
        if "memory" in controllers.split(","):
            top, version = root / "memory", V1
        elif not controllers:
            top, version = root, V2
        else:
            continue
        # In a container the path may be the host's, and the container's own group the mount's top.
        yield from ((top / part, version) for part in (names, *names.parents))


def _left(folder: Path, version: Version) -> int | None:
    try:
        limit = (folder / version.limit).read_text().strip()
        used = int((folder / version.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # no such group in this container, or no limit: the top has none
        return None
    if limit == "max":
        return None
    return int(limit) - used + int(stat.get(version.reclaimable, 0))
