"""`python -m experiments.import_torch` in a clone is `orderscale import-torch`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main("import-torch")
