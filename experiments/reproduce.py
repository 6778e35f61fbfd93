"""`python -m experiments.reproduce` in a clone is `orderscale reproduce`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("reproduce")
