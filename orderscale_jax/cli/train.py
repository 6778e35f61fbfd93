"""Trains one configuration.

python -m experiments.train --config=configs/two_layer.py --workdir=runs/two_layer

Many seeds on several hosts: the same command on each of them, with --distributed on a TPU pod or under
SLURM, elsewhere with --coordinator=HOST:PORT --num_processes=P --process_id=0 to P-1:

python -m experiments.train --config=configs/two_layer.py --config.runs=64 --workdir=/shared/runs/seeds \\
    --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0
"""

from absl import flags

from orderscale_jax import hosts
from orderscale_jax.training.workdir import train

CONFIG = launch.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory for checkpoint, metrics and summary; on several hosts best a shared one.",
    required=True,
)
launch.define_hosts()


def main(argv):
    del argv
    launch.use_compilation_cache()
    launch.use_all_cores(CONFIG.value.get("runs", 1))
    launch.join_hosts()
    with launch.output_directory(WORKDIR.value) as workdir:
        summary = train(CONFIG.value, workdir)
    if hosts.index() == 0:
        print(
            f"{summary['placement']}: accuracy {summary['accuracy']:.4f} "
            f"(lists {summary['sequence_accuracy']:.4f}) after {summary['steps']} steps in "
            f"{summary['seconds']:.0f} s: {summary['checkpoint']}"
        )


if __name__ == "__main__":
    launch.run(main)
