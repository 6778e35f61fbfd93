"""What a reader has set on the page, as a dictionary, and what a model then says: the page's Python side.

A state is what the page exports as JSON and keeps in its address. Dimensions: B lists, L layers, T = 5
positions, V vocabulary, F latents.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.checkpoint import load_pretrained, pretrained_names
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.explorer.film import MODEL as FILMED
from orderscale_jax.explorer.film import film_model
from orderscale_jax.explorer.tables import choices, why_no_explorer
from orderscale_jax.model import MODES, Interventions, ListTransformer, keep_weights
from orderscale_jax.model.interventions import rescaled
from orderscale_jax.options import shown
from orderscale_jax.sae import SparseAutoencoder, load_pretrained_sae, pretrained_saes
from orderscale_jax.sae.steering import HIGH, LOW
from orderscale_jax.sae.views import why_no_model

IN_SEP = "L0 SEP"  # the row whose weights digits and positions may have of their own
LARGEST_WEIGHT = 100  # of attention that a reader sets
WEIGHTS = ("swap", "reversed", "even")  # by name, of the two digits or the two positions in SEP
DEFAULTS: dict[str, Any] = {
    "model": "",
    "step": None,
    "list": (0, 0),
    "cuts": (),
    "mode": "renormalize",
    "digit_weights": None,
    "position_weights": None,
    "patterns": {},
    "latents": None,
}


def evaluate(
    state: Mapping[str, Any],
    model: ListTransformer | None = None,
    lists=None,
    *,
    sae: SparseAutoencoder | None = None,
) -> np.ndarray:
    """Logits [B, 2, V] of a state of the explorer, computed by the library in residual form.

    Args:
      state: any of these, the rest as the model has it:
        `list`, two digits;
        `cuts`, names of edges such as `L0 SEP<-d1`, and `mode`, `renormalize` or `zero`;
        `digit_weights` and `position_weights`, with what weights SEP reads in layer 0 the embeddings of the
        digits, and the vectors of their positions: two numbers, `swap` (alpha_1 and alpha_2 exchanged),
        `reversed` (as in the reversed list) or `even` (the mean of the two);
        `patterns`, by name of a row such as `L1 o2` the weights of the keys that it reads;
        `latents`, None for SEP itself; else what a sparse autoencoder (SAE) makes of SEP stands in its place
        after layer 0, with each of these latents, by index, times its scale, and the others as they are;
        `model`, the name of a shipped one, and `step`, one of `film_model`.
      model: instead of the one that `state` names; such a state has no `step`.
      lists: digits [B, 2] instead of the state's own list.
      sae: of the latents, instead of the one that is shipped with the model that `state` names.

    Raises:
      UserError: something of it does not exist, or the explorer cannot show this model.
    """
    check_kind("state", state, Mapping)
    if unknown := sorted(set(state) - set(DEFAULTS), key=str):
        raise UserError(f"a state has no {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    state = DEFAULTS | dict(state)
    if model is not None and state["step"] is not None:
        raise UserError(f"the state is of step {state['step']!r} of a film: leave out the model, or the step")
    if state["latents"] is not None:
        sae = _sae(state, model) if sae is None else sae
        check_kind("sae", sae, SparseAutoencoder)
    model = _model(state) if model is None else model
    check_kind("model", model, ListTransformer)
    config, graph = model.config, model.config.graph
    if reason := why_no_explorer(model):
        raise UserError(reason)
    lists = config.check_lists([state["list"]] if lists is None else lists)
    if not isinstance(state["mode"], str) or state["mode"] not in MODES:
        raise UserError(f"the mode of a cut is {' or '.join(MODES)}, got {state['mode']!r}")
    keep = keep_weights(config, state["cuts"])
    renormalize = state["mode"] == "renormalize"
    shape = (config.n_layers, len(lists), 1, graph.n_positions, graph.n_positions)
    patterns, at = np.zeros(shape), np.zeros((config.n_layers, *shape[-2:]), bool)
    for (layer, query, keys), weights in _given_patterns(model, state["patterns"]):
        patterns[layer, :, 0, query, keys], at[layer, query, keys] = weights[:, None], True
    added = np.zeros((config.n_layers, len(lists), graph.n_positions, config.d_model), np.float32)
    if state["digit_weights"] is not None or state["position_weights"] is not None:
        own, reversed_ = (_alphas(model, x) for x in (lists, lists[:, ::-1]))
        of_digits = _weights("digit_weights", state["digit_weights"], own, reversed_[:, ::-1])
        of_places = _weights("position_weights", state["position_weights"], own, reversed_)
        patterns[0, :, 0, graph.sep, :2], at[0, graph.sep, :2] = of_digits, True
        kept = keep[0, 0, graph.sep, :2]
        more = _cut(of_places, kept, renormalize) - _cut(of_digits, kept, renormalize)
        P = np.asarray(model.pos_embed.W_pos[...], np.float64)
        added[0, :, graph.sep] = more @ P[:2]
    interventions = Interventions(
        keep=jnp.asarray(keep),
        renormalize=renormalize,
        patterns=jnp.asarray(patterns, jnp.float32),
        patterns_at=jnp.asarray(at),
        added=jnp.asarray(added),
    )
    if state["latents"] is not None:
        interventions = _reconstructed(model, sae, state["latents"], lists, interventions)
    return np.asarray(_logits(*nnx.split(model), lists, interventions))


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, lists, interventions):
    return nnx.merge(graphdef, state)(lists, interventions)


@functools.partial(jax.jit, static_argnums=0)
def _patterns(graphdef, state, lists):
    return nnx.merge(graphdef, state)(lists, trace=True)[1].patterns


@functools.partial(jax.jit, static_argnums=0)
def _residuals(graphdef, state, lists, interventions):
    return nnx.merge(graphdef, state)(lists, interventions, trace=True)[1].residuals


def _reconstructed(
    model: ListTransformer, sae: SparseAutoencoder, latents, lists, interventions: Interventions
) -> Interventions:
    """The interventions, and after layer 0 in SEP's place what scaled latents say that it is."""
    if reason := why_no_model(model):
        raise UserError(reason)
    if (width := sae.W_dec.shape[1]) != model.config.d_model:
        raise UserError(
            f"the SAE reads residuals of width {width}, and the model has {model.config.d_model}: give the "
            "model that it was trained on"
        )
    scales, sep = _scales(sae, latents), model.config.graph.sep
    residuals = _residuals(*nnx.split(model), lists, interventions)
    replaced = sae.decode(sae.encode(residuals[1, :, sep]) * scales)
    at = np.zeros((len(residuals), residuals.shape[2]), bool)
    at[1, sep] = True
    return dataclasses.replace(
        interventions, residuals=residuals.at[1, :, sep].set(replaced), residuals_at=jnp.asarray(at)
    )


def _scales(sae: SparseAutoencoder, latents: Mapping[int | str, float]) -> np.ndarray:
    """By what each latent is multiplied, [F]; in JSON the indices are text."""
    check_kind("latents", latents, Mapping)
    scales, found = np.ones(sae.config.width, np.float32), set()
    for name, scale in latents.items():
        index = int(name) if isinstance(name, str) and re.fullmatch(r"0|[1-9][0-9]{0,8}", name) else name
        if not isinstance(index, int | np.integer) or isinstance(index, bool) or not 0 <= index < len(scales):
            raise UserError(f"there is no latent {shown(name)}; there are 0 to {len(scales) - 1}")
        if index in found:
            raise UserError(f"latents has latent {index} twice")
        if not _is_number(scale) or not LOW <= scale <= HIGH:
            raise UserError(
                f"the scale of latent {index} must be a number from {LOW:g} to {HIGH:g}, got {shown(scale)}"
            )
        found.add(index)
        scales[index] = scale
    return scales


def _sae(state: Mapping[str, Any], model: ListTransformer | None) -> SparseAutoencoder:
    """The shipped SAE of a state without a model of its own."""
    if model is not None:
        raise UserError("the state has latents: give the SAE that they are of as `sae`")
    if state["step"] is not None:
        raise UserError(
            f"an SAE is of a trained model, and the state is of step {state['step']!r} of a film: leave out "
            "the latents, or the step"
        )
    if state["model"] not in pretrained_saes():
        raise UserError(
            f"no SAE of {state['model']!r} is shipped (there is one of {', '.join(pretrained_saes())}): give "
            "it as `sae`"
        )
    return load_pretrained_sae(state["model"])[0]


def _given_patterns(model: ListTransformer, patterns: Mapping[str, Any]):
    """Pairs of (layer, query, keys) and weights [2] of the rows that `patterns` names."""
    check_kind("patterns", patterns, Mapping)
    graph = model.config.graph
    rows = {f"L{layer} {graph.names[query]}": (layer, query, keys) for layer, query, keys in choices(graph)}
    rows.pop(IN_SEP)
    for name in patterns:
        if name not in rows:
            hint = ": set digit_weights and position_weights" if name == IN_SEP else ""
            raise UserError(f"patterns has no row {name!r}{hint}; this model has {', '.join(rows)}")
    return [(rows[name], _numbers(f"patterns[{name!r}]", given)) for name, given in patterns.items()]


def _model(state: Mapping[str, Any]) -> ListTransformer:
    check_kind("model", state["model"], str)
    if state["model"] not in pretrained_names():
        raise UserError(
            f"no shipped model is called {state['model']!r} (there are {', '.join(pretrained_names())}): "
            "give the model that the state is of as `model`"
        )
    if state["step"] is None:
        return load_pretrained(state["model"])[0]
    if state["model"] != FILMED:
        raise UserError(f"the film is of {FILMED}, so {state['model']} has no step {state['step']!r}")
    return film_model(state["step"])


def _alphas(model: ListTransformer, lists: np.ndarray) -> np.ndarray:
    """alpha_1 and alpha_2 of the running model, [B, 2]."""
    sep = model.config.graph.sep
    return np.asarray(_patterns(*nnx.split(model), lists)[0, :, 0, sep, :2], np.float64)


def _weights(name: str, wanted: Any, own: np.ndarray, of_reversed: np.ndarray) -> np.ndarray:
    """Weights [B, 2] by what the state says of them."""
    if wanted is None:
        return own
    if isinstance(wanted, str):
        if wanted not in WEIGHTS:
            raise UserError(f"{name} is two numbers or one of {', '.join(WEIGHTS)}, got {wanted!r}")
        even = np.broadcast_to(own.mean(1, keepdims=True), own.shape)
        return {"swap": own[:, ::-1], "reversed": of_reversed, "even": even}[wanted]
    return np.broadcast_to(_numbers(name, wanted), own.shape)


def _numbers(name: str, given: Any) -> np.ndarray:
    fits = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes) and len(given) == 2
    if not fits or not all(_is_number(x) and 0 <= x <= LARGEST_WEIGHT for x in given):
        raise UserError(f"{name} must be two numbers from 0 to {LARGEST_WEIGHT}, got {given!r}")
    return np.array([float(x) for x in given])


def _is_number(given: Any) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(given, numbers.Real) and not isinstance(given, bool | np.bool_)


def _cut(weights: np.ndarray, kept: np.ndarray, renormalize: bool) -> np.ndarray:
    """Weights [B, 2] of a row after its cuts, as the model makes them of its own."""
    left = weights * kept
    sums = (x.sum(1, keepdims=True) for x in (left, weights - left))
    return np.asarray(rescaled(left, *sums)) if renormalize else left
