"""Which token would the model answer with each residual? The logit lens."""

from __future__ import annotations

import dataclasses

import numpy as np

from orderscale_jax import task
from orderscale_jax.analysis.observation import Observation
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import columns, percent
from orderscale_jax.graph import position_names
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class LogitLens(Printable):
    """Arg-max of residual @ W_U (no final LayerNorm, no bias, as published).

    Attributes:
      tokens: the input, int [B, T].
      embedding: int [B, T], the lens on the token embedding alone, without position: the input
        column of the paper's Figure 1.
      predicted: int [B, L+1, T], the lens on the residual before layer 0, then after every layer.
      agreement: [L+1, T, n], the fraction of lists in which the lens gives digit d_i at this place.
    """

    tokens: np.ndarray
    embedding: np.ndarray
    predicted: np.ndarray
    agreement: np.ndarray

    def table(self) -> str:
        """At every position and layer the digit that the lens gives most often, and how often."""
        n_layers, n = len(self.agreement) - 1, self.agreement.shape[-1]
        rows = [("spells", "input", *(f"after L{layer}" for layer in range(n_layers)))]
        for name, shares in zip(position_names(n), self.agreement.swapaxes(0, 1), strict=True):
            rows.append((name, *(f"d{x.argmax() + 1} {percent(x.max())}" for x in shares)))
        return columns(rows)


def logit_lens(observation: Observation) -> LogitLens:
    """The logit lens at every position and layer, for every list (section 3, Figure 1)."""
    check_kind("observation", observation, Observation)
    model, lists = observation.model, observation.lists
    tokens = task.tokens(lists, model.config.n_digits)
    spelled = (np.asarray(model.embed.W_E[...]) @ np.asarray(model.unembed.W_U[...])).argmax(-1)  # [V]
    agreement = [(observation.lens == digit[:, None]).mean(1) for digit in lists.T]  # n times [L+1, T]
    return LogitLens(tokens, spelled[tokens], observation.lens.swapaxes(0, 1), np.stack(agreement, -1))
