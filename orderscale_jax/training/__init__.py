"""Training: what a step is, a run as a pure function, many runs on many devices, and what stays on disk."""
