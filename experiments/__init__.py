"""Each command of `orderscale` as `python -m experiments.NAME`, for a clone."""
