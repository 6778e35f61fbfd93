"""The paper's questions, one file each: from a model and lists to a small dataclass of arrays."""
