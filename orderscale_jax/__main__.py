"""`python -m orderscale_jax` is the command `orderscale`."""

from orderscale_jax.cli.main import main

if __name__ == "__main__":
    main()
