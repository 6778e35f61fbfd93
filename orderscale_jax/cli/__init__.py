"""The commands of `orderscale`: one file each, with its flags and its `main`; see `main.py`."""
