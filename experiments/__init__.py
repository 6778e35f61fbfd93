"""Launchers for a clone: `python -m experiments.train` is `orderscale train`; and results of long runs."""
