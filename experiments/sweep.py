"""`python -m experiments.sweep` in a clone is `orderscale sweep`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("sweep")
