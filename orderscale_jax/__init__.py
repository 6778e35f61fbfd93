"""Order by Scale in JAX: train, ablate and explain small transformers that pack a list into one token."""

from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, save_checkpoint
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, cut
from orderscale_jax.task import TaskConfig, make_split

__all__ = [
    "Interventions",
    "ListTransformer",
    "ModelConfig",
    "TaskConfig",
    "cut",
    "load_checkpoint",
    "load_pretrained",
    "make_split",
    "save_checkpoint",
]
