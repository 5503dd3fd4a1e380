"""Main memory: how much this process's machine or container has, and how much of it is free."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def main_memory() -> tuple[float, float]:
    """Bytes of main memory: all, and free, within what this process's container allows."""
    seen = psutil.virtual_memory()
    total, free = float(seen.total), float(seen.available)
    try:
        limit, used = (float((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return total, free
    return min(total, limit), min(free, max(0.0, limit - used))
