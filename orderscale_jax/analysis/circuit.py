"""Can the two-layer model be written as two equations? The closed form and its distance to the model.

With two layers, two digits, one head and frozen identity projections (paper, section 4):

    l_o1 = (Em + P_o1 + alpha_1 D1 + alpha_2 D2 + S) U
    l_o2 = ((1 + beta_o1) Em + beta_o1 P_o1 + P_o2 + beta_s (alpha_1 D1 + alpha_2 D2 + S)) U

where D_i = E[d_i] + P[i], S = E[SEP] + P[SEP], Em = E[MASK].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.analysis.observation import Observation, chunks
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import count, enumerate_words
from orderscale_jax.model import ModelConfig
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class Circuit(Printable):
    """The symbols of the equations for B lists, in float64.

    Attributes:
      lists: int [B, 2].
      alpha_1, alpha_2: SEP <- d1, d2 in layer 0, [B, 1].
      beta_s, beta_o1: o2 <- SEP, o1 in layer 1, [B, 1].
      D1, D2: embedded digits [B, D].
      S, Em, P_o1, P_o2: [D].
      U: [D, V].
    """

    lists: np.ndarray
    alpha_1: np.ndarray
    alpha_2: np.ndarray
    beta_s: np.ndarray
    beta_o1: np.ndarray
    D1: np.ndarray
    D2: np.ndarray
    S: np.ndarray
    Em: np.ndarray
    P_o1: np.ndarray
    P_o2: np.ndarray
    U: np.ndarray

    def o1_logits(self) -> np.ndarray:
        """l_o1, [B, V]."""
        return (self.Em + self.P_o1 + self.alpha_1 * self.D1 + self.alpha_2 * self.D2 + self.S) @ self.U

    def o2_logits(self) -> np.ndarray:
        """l_o2, [B, V]."""
        sep = self.alpha_1 * self.D1 + self.alpha_2 * self.D2 + self.S
        outputs = (1 + self.beta_o1) * self.Em + self.beta_o1 * self.P_o1 + self.P_o2
        return (outputs + self.beta_s * sep) @ self.U


def misfits(config: ModelConfig) -> tuple[str, ...]:
    """What in a model the equations do not describe; empty if they hold."""
    check_kind("config", config, ModelConfig)
    shape = {
        count(config.n_layers, "layer"): config.n_layers != 2,
        f"lists of {count(config.list_len, 'digit')}": config.list_len != 2,
    }
    return (*(what for what, differs in shape.items() if differs), *config.variants)


def why_no_equations(config: ModelConfig) -> str | None:
    """Why the equations do not describe a model, in a sentence; None if they do."""
    if not (found := misfits(config)):
        return None
    return (
        "the two equations describe models of two layers, lists of 2 digits and one head, with frozen "
        f"projections and no LayerNorm, bias or MLP; this model has {enumerate_words(found)}"
    )


def circuits(observation: Observation) -> Iterator[Circuit]:
    """The symbols of the equations, a chunk of lists at a time.

    Raises:
      UserError: the model is not of the kind that the equations describe.
    """
    model = observation.model
    if reason := why_no_equations(model.config):
        raise UserError(reason)
    arrays = (model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U)
    E, P, U = (np.asarray(array[...], np.float64) for array in arrays)
    return (_circuit(observation, part, E, P, U) for part in chunks(len(observation.lists)))


def _circuit(observation: Observation, part: slice, E, P, U) -> Circuit:
    lists, config = observation.lists[part], observation.model.config
    alpha = observation.sep_reads[0, part, 0].astype(np.float64)
    beta = observation.output_reads[1, part, 0, 1].astype(np.float64)
    d1, d2, sep, o1, o2 = range(5)
    return Circuit(
        lists=lists,
        alpha_1=alpha[:, [d1]],
        alpha_2=alpha[:, [d2]],
        beta_s=beta[:, [0]],
        beta_o1=beta[:, [1]],
        D1=E[lists[:, 0]] + P[d1],
        D2=E[lists[:, 1]] + P[d2],
        S=E[config.sep_token] + P[sep],
        Em=E[config.mask_token],
        P_o1=P[o1],
        P_o2=P[o2],
        U=U,
    )


@dataclasses.dataclass(frozen=True, repr=False)
class ClosedForm(Printable):
    """The closed form beside the model, both in float64.

    In float32 the comparison says nothing: after long training logits are several hundred, and their
    rounding errors are larger than any error of the equations.

    Attributes:
      max_abs_diff: [2], largest difference of any logit of o1 and of o2 to the model's.
      predictions: int [B, 2], what the closed form answers.
      accuracy: fraction of its output tokens right.
    """

    max_abs_diff: np.ndarray
    predictions: np.ndarray
    accuracy: float


def closed_form(observation: Observation) -> ClosedForm:
    """Computes every logit from the two equations and compares them with the model's.

    Raises:
      UserError: the model is not of the kind that the equations describe.
    """
    check_kind("observation", observation, Observation)
    circuits(observation)  # for its check of the model
    differences, predictions = [], []
    graphdef, state = nnx.split(observation.model)
    for part in chunks(len(observation.lists)):
        lists = observation.lists[part]
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), state)
            of_model, patterns = jax.device_get(_logits_and_patterns(graphdef, exact, lists))
        (circuit,) = circuits(dataclasses.replace(observation, lists=lists, patterns=patterns))
        logits = np.stack([circuit.o1_logits(), circuit.o2_logits()], 1)
        differences.append(np.abs(logits - of_model).max((0, 2)))
        predictions.append(logits.argmax(-1))
    predictions = np.concatenate(predictions)
    return ClosedForm(np.max(differences, 0), predictions, float((predictions == observation.lists).mean()))


@functools.partial(jax.jit, static_argnums=0)
def _logits_and_patterns(graphdef, state, lists):
    logits, trace = nnx.merge(graphdef, state)(lists, trace=True)
    return logits, trace.patterns
