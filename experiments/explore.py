"""`python -m experiments.explore` in a clone is `orderscale explore`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("explore")
