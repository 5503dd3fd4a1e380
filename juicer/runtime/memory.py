"""Main memory: how much this process's machine or container has, and how much of it is free."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP, GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
NAMES = ("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
"""Of the limit, of what is in use, and before the counters of `memory.stat`: in version 2 of control groups, and 1."""
CACHED = ("inactive_file", "active_file")


def main_memory() -> tuple[float, float]:
    """Bytes of main memory: all, and free, within what this process's container allows."""
    seen = psutil.virtual_memory()
    total, free = float(seen.total), float(seen.available)
    for folder in _groups():
        for most, current, prefix in NAMES:
            with suppress(OSError, ValueError):  # no such group, or one without a limit
                limit, used = (float((folder / name).read_text(encoding="utf-8")) for name in (most, current))
                total, free = min(total, limit), min(free, max(0.0, limit - used + _cached(folder, prefix)))
    return total, free


def return_freed() -> None:
    """Return freed memory to the system, which glibc otherwise keeps for allocations that fit into it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cached(folder: Path, prefix: str) -> float:
    """Bytes of files that a control group has in the system's cache: in use, but free as soon as they are needed."""
    counters: dict[str, str] = {}
    with suppress(OSError):
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        counters = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return sum(float(counters.get(prefix + name, 0)) for name in CACHED)


def _groups() -> Iterator[Path]:
    """Folders of this process's control groups: those of its container, and those inside that it was put in."""
    yield from (CGROUP, CGROUP / "memory")
    with suppress(OSError):
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            root = CGROUP if not controllers else CGROUP / controllers
            if controllers in ("", "memory"):
                own = root / path.strip("/")
                yield from (own, *own.parents[: max(0, len(own.parts) - len(root.parts) - 1)])
