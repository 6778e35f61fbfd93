"""Trains one configuration.

python -m experiments.train --config=configs/two_layer.py --workdir=runs/two_layer
"""

from absl import flags

from experiments import launch
from orderscale_jax.runs import train

CONFIG = launch.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for checkpoint, metrics and summary.", required=True
)


def main(argv):
    del argv
    launch.use_compilation_cache()
    with launch.output_directory(WORKDIR.value) as workdir:
        summary = train(CONFIG.value, workdir)
    print(
        f"accuracy {summary['accuracy']:.4f} (lists {summary['sequence_accuracy']:.4f}) after "
        f"{summary['steps']} steps in {summary['seconds']:.0f} s: {summary['checkpoint']}"
    )


if __name__ == "__main__":
    launch.run(main)
