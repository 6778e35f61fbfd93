"""`python -m experiments.sae_sweep` in a clone is `orderscale sae-sweep`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("sae-sweep")
