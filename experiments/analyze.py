"""`python -m experiments.analyze` in a clone is `orderscale analyze`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("analyze")
