"""`python -m experiments.circuits` in a clone is `orderscale circuits`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("circuits")
