"""Which process trains which runs, if there are several: shares that know nothing of each other.

Runs share nothing, so the processes do not communicate. Each trains its share, on its own devices and in
a directory that all of them can see. The process that finds all shares complete writes the common files.
If a process died, the same command starts its share again; the others are not affected.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax

from orderscale_jax.errors import UserError

ASK_JAX = """
import jax
jax.distributed.initialize()
print(jax.process_index(), jax.process_count())
jax.distributed.shutdown()
"""


@dataclasses.dataclass(frozen=True)
class Share:
    """Share `index` (from 0) of `count`; the default is all there is.

    Raises:
      UserError: there is no such share.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UserError(f"there is no process {self.index} of {self.count}: they count from 0")

    def __str__(self) -> str:
        return f"{self.index}_of_{self.count}"

    def of(self, n_runs: int) -> range:
        """The indices of the runs of this share: a contiguous block, all blocks of about one size.

        Raises:
          UserError: there are more shares than runs.
        """
        if self.count > n_runs:
            raise UserError(
                f"there are more processes ({self.count}) than runs ({n_runs}): "
                f"start at most {n_runs}, or train at least {self.count} runs"
            )
        size, more = divmod(n_runs, self.count)  # the first `more` blocks are longer by one
        start = self.index * size + min(self.index, more)
        return range(start, start + size + (self.index < more))


ALL = Share()


def share_of_cluster() -> Share:
    """Which share this process has among those that a cluster started (SLURM, Open MPI, Cloud TPU, …).

    `jax.distributed` finds out, in a child process: all meet once, and when it has answered nothing is
    left through which one process could stop another.

    Raises:
      UserError: JAX does not find a cluster, or not all processes come.
    """
    asked = subprocess.run(
        [sys.executable, "-c", ASK_JAX],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},  # the devices stay free for this process
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(
            f"JAX does not know which processes take part ({why}): say which this is, and of how many"
        )
    return Share(*map(int, asked.stdout.split()[-2:]))


def check_processes(share: Share):
    """UserError if this process is joined to others, or one of several that would all train the same runs."""
    n_processes = jax.process_count()
    if jax.distributed.is_initialized():
        raise UserError(
            "jax.distributed has joined this process to others, and what each saves would be mixed up: leave "
            "it out; --distributed, or --num_processes, shares out the runs without it"
        )
    if n_processes > 1 and share.count == 1:
        raise UserError(
            f"JAX counts {n_processes} processes here, which would all train the same: "
            "let them share out the runs with --distributed"
        )
