"""Launchers: flags in, one or two library calls, results into the directory that was named."""
