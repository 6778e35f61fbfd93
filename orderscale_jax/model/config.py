"""Shape and variants of a model."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from orderscale_jax import task
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Graph
from orderscale_jax.host import check_memory, free_memory, in_words
from orderscale_jax.options import check_types, check_values

FROZEN_HEADS = ("shared", "block")
FLOAT = 4  # bytes
MOST_LAYERS = 256  # compiled one by one: 50 took a minute on two cores, 100 two and a half, 200 over ten


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and variants of a model (paper, section 3 and appendix).

    Attributes:
      n_layers: attention layers, 256 at most: each is compiled by itself.
      n_heads: heads of a layer, each of d_model / n_heads dimensions.
      d_model: width of the residual stream.
      list_len: digits per list, n; a run takes it from the task.
      n_digits: size of the alphabet, N; a run takes it from the task.
      layer_norm: LayerNorm before attention, before the MLP and before the unembedding.
      bias: learn b_Q, b_K, b_V, b_O, b_U (and the MLP's).
      learn_wv: learn the value projection instead of freezing it to a slice of the identity.
      learn_wo: learn the output projection instead of freezing it.
      mlp: a GELU MLP of width 4 d_model after attention.
      frozen_heads: what several frozen heads project to. `shared`, as published: every head the first
        d_head dimensions. `block`: head h its own block, so that their sum is the identity.
    """

    n_layers: int = 2
    n_heads: int = 1
    d_model: int = 64
    list_len: int = 2
    n_digits: int = 100
    layer_norm: bool = False
    bias: bool = False
    learn_wv: bool = False
    learn_wo: bool = False
    mlp: bool = False
    frozen_heads: str = "shared"

    def __post_init__(self):
        check_types(self, "model")
        least = {"n_layers": 1, "n_heads": 1, "d_model": 1, "list_len": 1, "n_digits": 2}
        check_values(self, "model", least, {"frozen_heads": FROZEN_HEADS})
        if self.d_model % self.n_heads:
            raise UserError(
                f"model.n_heads must divide model.d_model: {self.d_model} is not a multiple of {self.n_heads}"
            )

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_vocab(self) -> int:
        """Digits, then MASK, then SEP."""
        return self.n_digits + 2

    @property
    def mask_token(self) -> int:
        return self.n_digits

    @property
    def sep_token(self) -> int:
        return self.n_digits + 1

    @property
    def n_positions(self) -> int:
        return 2 * self.list_len + 1

    @functools.cached_property
    def graph(self) -> Graph:
        return Graph(self.list_len, self.n_layers)

    @property
    def n_parameters(self) -> int:
        """How many numbers a model learns."""
        D, L = self.d_model, self.n_layers
        attention = (2 + self.learn_wv + self.learn_wo) * D * D + 4 * D * self.bias
        mlp = self.mlp * (8 * D * D + 5 * D * self.bias)
        norms = 2 * D * self.layer_norm
        tables = (2 * self.d_vocab + self.n_positions) * D + self.d_vocab * self.bias
        return tables + norms + L * (attention + mlp + norms * (1 + self.mlp))

    def check_size(self):
        """UserError if a model of this size needs too much memory here, or too long to compile."""
        advice = "give fewer digits or layers, shorter lists or a smaller d_model"
        weights = FLOAT * self.n_parameters
        check_memory(weights, "the weights of this model take", advice)
        self.check_layers(weights)

    def check_layers(self, n_bytes: int):
        """UserError if there are more layers than can be compiled in a reasonable time.

        It also tells how much memory they take, `n_bytes` at least.
        """
        if self.n_layers > MOST_LAYERS:
            raise UserError(
                f"model.n_layers must be at most {MOST_LAYERS}, for which compiling takes half an hour, and "
                f"beyond more than in proportion; {self.n_layers} would also take {in_words(n_bytes)} of "
                f"memory at least, and {in_words(free_memory())} are free"
            )

    @property
    def variants(self) -> tuple[str, ...]:
        """What sets this model apart from the plain one (one head, frozen projections, attention only).

        Where it is empty, residuals are scales of source vectors (`model.scales`).
        """
        names = {
            f"{self.n_heads} heads": self.n_heads > 1,
            "LayerNorm": self.layer_norm,
            "biases": self.bias,
            "a learned W_V": self.learn_wv,
            "a learned W_O": self.learn_wo,
            "an MLP": self.mlp,
        }
        return tuple(name for name, is_on in names.items() if is_on)

    def check_lists(self, lists) -> jax.Array:
        """Lists [B, n] as an integer array; UserError if their shape, type or a digit does not fit.

        Digits are known, and checked, outside `jit` only. An array keeps its place and sharding.
        """
        known = not isinstance(lists, jax.core.Tracer) and getattr(lists, "is_fully_addressable", True)
        if known:
            checked = task.check_lists(lists, self.list_len, self.n_digits)
        else:
            task.check_list_shape(lists, self.list_len)
        return lists if isinstance(lists, jax.Array) else jnp.asarray(checked)
