"""What this machine has: free memory and cores, within the limits of a container."""

from __future__ import annotations

import os
from pathlib import Path

from orderscale_jax.errors import UserError

CONTROL_GROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use
HARMLESS = 2**24  # bytes for which nobody looks how much is free


def free_memory() -> int:
    """Bytes of memory that are free on this machine, within the limit of a container."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux: half of all there is
        free = (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 2**32
        )
    limit, used = (_control_group(name) for name in ("memory.max", "memory.current"))
    if not (limit and used and limit[0].isdigit()):
        return free
    stat = _control_group("memory.stat")
    cached = stat[stat.index("inactive_file") + 1] if "inactive_file" in stat else 0  # is given back
    return min(free, int(limit[0]) - int(used[0]) + int(cached))


def check_memory(needed: int, what: str, advice: str, times: int = 1):
    """UserError if so many bytes are more than all that is free, or than so many times that.

    Args:
      needed: the least that it takes.
      what: takes it, as the beginning of a sentence, with its verb.
      advice: what to do, as its end.
    """
    if needed > HARMLESS and needed > times * (free := free_memory()):
        raise UserError(
            f"{what} at least {in_words(needed)} of memory, and {in_words(free)} are free: {advice}"
        )


def in_words(n_bytes: int) -> str:
    """`1.5 GB`, `262 GB`, `3 million GB`."""
    amount = n_bytes / 1e9
    if amount >= 1e6:
        return f"{amount / 1e6:,.3g} million GB" if amount < 1e9 else f"{amount:.1e} GB"
    return f"{amount:,.0f} GB" if amount >= 10 else f"{amount:.1f} GB"


def available_cores() -> int:
    """Cores that this process may use: of its affinity, and no more than a container grants."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _control_group("cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def _control_group(name: str) -> list[str]:
    """The words of a control group's file, none where there is no such file."""
    try:
        return (CONTROL_GROUP / name).read_text().split()
    except OSError:
        return []
