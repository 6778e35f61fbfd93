"""`python -m experiments.census` in a clone is `orderscale census`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("census")
