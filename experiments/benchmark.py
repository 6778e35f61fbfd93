"""`python -m experiments.benchmark` in a clone is `orderscale benchmark`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("benchmark")
