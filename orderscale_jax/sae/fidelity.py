"""How well an SAE stands in for SEP: as a vector, and in what the outputs then say.

Dimensions: B lists, D model, F latents.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy.special import log_softmax

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.printing import Printable
from orderscale_jax.sae.autoencoder import SparseAutoencoder, kept, named_arrays
from orderscale_jax.sae.config import SAEConfig
from orderscale_jax.sae.views import GROUPS, SepView, rows_of

CORRELATIONS = {"code": 0.5, "text": 0.3}  # |r| above which a latent is special, in their code and their text


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the outputs say, as shares of the lists of a group.

    Attributes:
      outputs_right: of the output tokens.
      lists_right: both outputs right.
      reversed: o1 says d2 and o2 says d1, of the lists of two different digits.
      pair_right: the two digits, in whichever order.
    """

    outputs_right: float
    lists_right: float
    reversed: float
    pair_right: float


@dataclasses.dataclass(frozen=True, repr=False)
class Encoded(Printable):
    """An SAE and what it makes of every list, in float64.

    Attributes:
      config: of the SAE.
      view: the model and its lists.
      latents [B, F]: as they are after training.
      decoder [F, D]: what a latent of 1 adds to SEP.
      constant [D]: what is added in every list: b_dec and the mean.
      act_mean [D]: the mean with which it was trained.
    """

    config: SAEConfig
    view: SepView
    latents: np.ndarray
    decoder: np.ndarray
    constant: np.ndarray
    act_mean: np.ndarray

    @functools.cached_property
    def reconstruction(self) -> np.ndarray:
        """SEP [B, D] as the SAE has it."""
        return self.decode(self.latents)

    def decode(self, latents) -> np.ndarray:
        """SEP [B, D] of latents [B, F]."""
        return rows_of("latents", latents, len(self.decoder)) @ self.decoder + self.constant

    @property
    def live_decoder(self) -> np.ndarray:
        """The rows [F, D] of the decoder whose latents are on in any list."""
        return self.decoder[(self.latents > 0).any(0)]

    @functools.cached_property
    def firing(self) -> np.ndarray:
        """Share of all lists in which a latent is on, [F]."""
        return (self.latents > 0).mean(0)

    @functools.cached_property
    def correlations(self) -> np.ndarray:
        """Correlation [F] of each latent with alpha_1 - alpha_2 over all lists; 0 for a constant one."""
        gap = self.view.alphas[:, 0] - self.view.alphas[:, 1]
        gap, centred = gap - gap.mean(), self.latents - self.latents.mean(0)
        scale = np.sqrt((centred**2).sum(0) * (gap**2).sum())
        return np.divide(gap @ centred, scale, out=np.zeros(len(scale)), where=scale > 0)

    def special(self, least: float = CORRELATIONS["code"]) -> np.ndarray:
        """The latents whose |correlation| with alpha_1 - alpha_2 is above `least`, largest first."""
        strength = np.abs(self.correlations)
        order = np.argsort(-strength, kind="stable")
        return order[strength[order] > least]


@dataclasses.dataclass(frozen=True, repr=False)
class Fidelity(Printable):
    """How well an SAE stands in for SEP, by group of lists: all, training, validation.

    Attributes:
      mse: squared error per dimension of SEP. explained_variance: 1 less its share of SEP's variance, about
        the mean that the SAE was trained with.
      l0: latents on per list, as counted. dead: latents on in none of all lists.
      intact: what the outputs say of SEP itself. patched: of the reconstruction in its place.
      loss_recovered: 1 where the loss with the reconstruction is the model's, 0 where it is that of SEP
        replaced by zero.
      loss_recovered_of_mean: the same with SEP replaced by its mean over the lists of the group; NaN where
        that changes nothing, as in a group of one list.
    """

    mse: dict[str, float]
    explained_variance: dict[str, float]
    l0: dict[str, float]
    dead: int
    intact: dict[str, Answers]
    patched: dict[str, Answers]
    loss_recovered: dict[str, float]
    loss_recovered_of_mean: dict[str, float]

    def table(self) -> str:
        """A line per group of lists."""
        rows = [
            ("lists", "MSE", "explained", "L0", "loss recovered", "outputs right", "of", "lists right", "of")
        ]
        for group, patched in self.patched.items():
            intact = self.intact[group]
            rows.append(
                (
                    group,
                    number(self.mse[group], 5),
                    number(self.explained_variance[group], 4),
                    number(self.l0[group], 3),
                    number(self.loss_recovered[group], 4),
                    percent(patched.outputs_right),
                    percent(intact.outputs_right),
                    percent(patched.lists_right),
                    percent(intact.lists_right),
                )
            )
        return f"{columns(rows)}\n{self.dead} latents are on in no list"


def encode_lists(sae: SparseAutoencoder, view: SepView) -> Encoded:
    """What an SAE makes of every list.

    Raises:
      UserError: the SAE is of another width than the model's residual.
    """
    check_kind("sae", sae, SparseAutoencoder)
    check_kind("view", view, SepView)
    arrays = {name: array.astype(np.float64) for name, array in named_arrays(sae).items()}
    if arrays["W_dec"].shape[1] != view.sep.shape[1]:
        raise UserError(
            f"the SAE reads residuals of width {arrays['W_dec'].shape[1]}, and the model has "
            f"{view.sep.shape[1]}: give the model that it was trained on"
        )
    x = view.sep - arrays["act_mean"] - arrays["b_dec"]
    latents = kept(sae.config, x @ arrays["W_enc"] + arrays["b_enc"], arrays["threshold"], np)
    mean = arrays["act_mean"]
    return Encoded(sae.config, view, latents, arrays["W_dec"], arrays["b_dec"] + mean, mean)


def fidelity(encoded: Encoded) -> Fidelity:
    """How well the SAE stands in for SEP."""
    check_kind("encoded", encoded, Encoded)
    view, rebuilt = encoded.view, encoded.reconstruction
    error = ((rebuilt - view.sep) ** 2).mean(1)
    spread = ((view.sep - encoded.act_mean) ** 2).mean(1)
    on = (encoded.latents > 0).sum(1)
    answers = view.readout.answers(rebuilt)
    losses = {
        "intact": _losses(view, view.sep),
        "patched": _losses(view, rebuilt),
        "zero": _losses(view, np.zeros((1, view.sep.shape[1]))),
    }
    found: dict[str, dict[str, Any]] = {field.name: {} for field in dataclasses.fields(Fidelity)}
    for group in GROUPS:
        if not (at := view.group(group)).any():
            continue
        found["mse"][group] = float(error[at].mean())
        found["explained_variance"][group] = float(1 - error[at].mean() / spread[at].mean())
        found["l0"][group] = float(on[at].mean())
        found["intact"][group] = judge(view.answers[at], view.lists[at])
        found["patched"][group] = judge(answers[at], view.lists[at])
        intact, patched = losses["intact"][at].mean(), losses["patched"][at].mean()
        without = {
            "": losses["zero"][at].mean(),
            "_of_mean": _losses(view, view.sep[at].mean(0)[None])[at].mean(),
        }
        for kind, worst in without.items():
            share = (worst - patched) / (worst - intact) if worst != intact else float("nan")
            found[f"loss_recovered{kind}"][group] = float(share)
    return Fidelity(**{**found, "dead": int((~(encoded.latents > 0).any(0)).sum())})


def judge(answers, lists) -> Answers:
    """What the outputs' answers [B, 2] are worth on lists [B, 2].

    Raises:
      UserError: there are none, or they have other shapes.
    """
    answers, lists = np.asarray(answers), np.asarray(lists)
    if answers.shape != lists.shape or lists.ndim != 2 or lists.shape[1] != 2 or not len(lists):
        raise UserError(
            f"answers and lists must both have shape [B, 2], with at least one list; got "
            f"{list(answers.shape)} and {list(lists.shape)}"
        )
    right, differs = answers == lists, lists[:, 0] != lists[:, 1]
    is_reversed = (answers == lists[:, ::-1]).all(1)
    return Answers(
        outputs_right=float(right.mean()),
        lists_right=float(right.all(1).mean()),
        reversed=float(is_reversed[differs].mean()) if differs.any() else float("nan"),
        pair_right=float((right.all(1) | is_reversed).mean()),
    )


def _losses(view: SepView, sep) -> np.ndarray:
    """Mean cross-entropy of both outputs [B], for SEP [B, D] or the same [1, D] in every list."""
    logs = log_softmax(view.readout.logits(sep), axis=-1)
    logs = np.broadcast_to(logs, (len(view.lists), *logs.shape[1:]))
    return -np.take_along_axis(logs, view.lists[..., None], -1).mean((1, 2))
