"""`python -m experiments.compile` in a clone is `orderscale compile`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("compile")
