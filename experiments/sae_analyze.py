"""`python -m experiments.sae_analyze` in a clone is `orderscale sae-analyze`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("sae-analyze")
