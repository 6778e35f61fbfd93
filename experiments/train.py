"""`python -m experiments.train` in a clone is `orderscale train`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("train")
