"""What the programs of this package become on an accelerator: compiled for it, and read, without one."""
