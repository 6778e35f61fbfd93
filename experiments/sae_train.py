"""`python -m experiments.sae_train` in a clone is `orderscale sae-train`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("sae-train")
