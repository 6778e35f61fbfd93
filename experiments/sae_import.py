"""`python -m experiments.sae_import` in a clone is `orderscale sae-import`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("sae-import")
