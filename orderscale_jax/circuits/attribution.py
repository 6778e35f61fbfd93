"""How much each edge matters, told from gradients of the model instead of from all sets of edges.

Every score estimates what a measure loses when the edge is cut, so larger is more important, in every mode
of cutting. Of `loss` and `kl`, which grow as a model gets worse, the negative is what is lost.

Two limits follow from what a gradient is. `kl` is least in the intact model, so its gradient there, and with
it `edge_attribution`, is 0 but for rounding. And with `renormalize` an edge that is all a row reads has the
gradient 0 at every weight above 0, as the row is scaled back to its sum until nothing is left of it.

Sources: Syed et al. 2023 (arXiv 2310.10348), Hanna et al. 2024 (arXiv 2403.17806), Li and Janson 2024
(arXiv 2409.09951).

Dimensions: E live edges, B lists, n outputs, L layers, T positions, D model, K weightings of the edges.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from orderscale_jax.circuits.checks import check_edges, check_seed, check_task, real_numbers, whole_number
from orderscale_jax.errors import UserError
from orderscale_jax.model import ListTransformer, metrics
from orderscale_jax.model.cuts import cutting, donors, replacements
from orderscale_jax.model.interventions import Interventions
from orderscale_jax.model.numerics import einsum
from orderscale_jax.options import is_float32, shown

METRICS = ("logit_difference", "loss", "kl")
CHUNK = 1024  # lists whose gradients are alive at once
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # what an edge costs, in units of the metric
DEAREST = 1e9  # lambda whose square Adam can still take the mean of
UNIFORM = 0.25  # of the weights that masks are learned from, the share between 0 and 1
START = 1.0  # log-odds of keeping an edge before anything is learned


def edge_attribution(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    metric: str = "logit_difference",
    seed: int = 0,
) -> np.ndarray:
    """First-order estimate [E] of what cutting each edge costs (EAP, Syed et al. 2023).

    It is the gradient of the metric in the weights of the edges, at 1.

    Args:
      model: any model.
      lists: digits [B, n], also the targets.
      mode: what it means that an edge is cut, see `model.cuts`.
      metric: one of METRICS, the mean over outputs and lists.
      seed: of what `resample` draws, see `model.cuts.replacements`.

    Raises:
      UserError: a mode or metric that does not exist, no lists or such as do not fit the model, or a model
        without live edges or with weights that are not finite.
    """
    lists, seed = _checked(model, lists, metric, seed)
    ones = np.ones((1, len(model.config.graph.live_edges)))
    return _keep_gradients(model, lists, mode, metric, ones, seed)[0]


def integrated_activations(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    metric: str = "logit_difference",
    steps: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Gradients [E] while a layer at a time goes from cut to intact (EAP-IG activations, Hanna et al. 2024).

    An edge's score is the mean gradient in its weight with all edges of its layer at weight t and all others
    at 1, over the midpoints t of `steps` equal parts of (0, 1). With many steps the scores of a layer add up
    to the metric of the intact model less that with the layer cut, except with `renormalize`, where the
    metric jumps as the last of a row is cut. Other arguments and errors as of `edge_attribution`.
    """
    lists, seed = _checked(model, lists, metric, seed)
    layers = np.array([edge.layer for edge in model.config.graph.live_edges], int)
    points = _midpoints(steps)
    present = np.unique(layers)
    keeps = np.where(layers == present[:, None, None], points[:, None], 1.0)  # [layers, steps, E]
    found = _keep_gradients(model, lists, mode, metric, keeps.reshape(-1, len(layers)), seed)
    means = found.reshape(keeps.shape).mean(1)
    return means[np.searchsorted(present, layers), np.arange(len(layers))]


def integrated_inputs(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    metric: str = "logit_difference",
    steps: int = 5,
    points: Sequence[float] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Gradients [E] along a straight line of inputs (EAP-IG inputs, Hanna et al. 2024).

    An edge's score is what cutting it removes from what its query receives in the intact model, to first
    order, times the gradient of the metric in what the query receives, the mean over points of the path. The
    path leads to the embedded list from zeros (`zero`, `renormalize`), from the mean embedded list (`mean`)
    or from that of the list whose messages are drawn (`resample`).

    Args:
      steps: the points are the midpoints of so many equal parts of the path.
      points: the points themselves, from 0 (the baseline) to 1 (the list), instead. With 1 alone the scores
        are those of `edge_attribution`.

    Other arguments and errors as there; an error too if there is no point.
    """
    lists, seed = _checked(model, lists, metric, seed)
    points = _midpoints(steps) if points is None else real_numbers("points", points)
    if points.ndim != 1 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        raise UserError(f"points of a path are numbers from 0 to 1, one at least; got {points.tolist()}")
    replaced = replacements(model, lists, mode, seed=seed)
    embedded = np.asarray(_embedded(model, lists))
    if mode == "resample":
        baseline = embedded[donors(len(lists), seed)]
    else:
        baseline = embedded.mean(0, keepdims=True) * (mode == "mean")
    graphdef, params = nnx.split(model)
    total = 0.0
    for indices, weights in _chunks(len(lists)):
        start = baseline[indices if len(baseline) > 1 else [0]]
        total += np.asarray(
            _path_scores(
                graphdef,
                metric,
                mode == "renormalize",
                params,
                points,
                lists[indices],
                weights,
                _of_lists(replaced, indices),
                start,
            ),
            np.float64,
        )
    return total


def learned_masks(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    metric: str = "logit_difference",
    lambdas: Sequence[float] = LAMBDAS,
    steps: int = 150,
    n_lists: int = 64,
    n_groups: int = 16,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Probabilities [E] of keeping an edge, learned with samples (uniform gradient sampling, Li and Janson).

    For each lambda, probabilities theta are to make the mean metric less lambda times their sum as large as
    possible (Adam on their log-odds, which start at START). In every step lists are drawn and fall into
    groups, each with its own weights: an edge weighs 1 or 0 with its probability or, in a share UNIFORM of
    the groups, a number drawn evenly between. The mean gradient in the weight over the groups of the second
    kind estimates that in theta. The score is the mean of theta over the lambdas, in (0, 1).

    Args:
      lambdas: what an edge costs, in units of the metric.
      steps: of Adam.
      n_lists: drawn in a step, with replacement; a multiple of n_groups.
      n_groups: of lists with the same weights.
      learning_rate: of Adam.
      seed: of what is drawn, also by `resample`.

    Other arguments and errors as of `edge_attribution`; an error too if a number is out of range.
    """
    lists, seed = _checked(model, lists, metric, seed)
    steps, n_lists, n_groups = (
        whole_number(name, value, 1)
        for name, value in {"steps": steps, "n_lists": n_lists, "n_groups": n_groups}.items()
    )
    if n_lists % n_groups:
        raise UserError(f"n_lists must be a multiple of n_groups; got {n_lists} and {n_groups}")
    rate = real_numbers("learning_rate", learning_rate)
    if rate.ndim or rate <= 0 or not is_float32(rate):
        raise UserError(f"learning_rate must be a number above 0; got {shown(learning_rate)}")
    lambdas = real_numbers("lambdas", lambdas)
    if lambdas.ndim != 1 or not len(lambdas) or not ((lambdas >= 0) & (lambdas <= DEAREST)).all():
        raise UserError(f"lambdas are numbers from 0 to {DEAREST:g}, one at least; got {lambdas.tolist()}")
    replaced = replacements(model, lists, mode, seed=seed)
    graphdef, params = nnx.split(model)
    settings = (metric, steps, n_groups, n_lists // n_groups, float(rate))
    renormalize, key = mode == "renormalize", jax.random.key(seed)
    thetas = _learn(graphdef, settings, renormalize, params, key, lambdas, lists, replaced)
    return np.asarray(thetas, np.float64).mean(0)


def check_metric(metric: str):
    """UserError unless `metric` is one of METRICS."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise UserError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")


def _checked(model, lists, metric: str, seed) -> tuple[np.ndarray, int]:
    """The lists as an array and the seed, if all that is given fits together."""
    check_metric(metric)
    lists = check_task(model, lists)
    check_edges(model.config.graph)
    return lists, check_seed(seed)


def _midpoints(steps: int) -> np.ndarray:
    steps = whole_number("steps", steps, 1)
    return (np.arange(steps) + 0.5) / steps


def _chunks(n_lists: int):
    """Indices of lists in parts of one size, and their weights in a mean: 0 where a list fills a part up."""
    size = -(-n_lists // -(-n_lists // CHUNK))
    for start in range(0, n_lists, size):
        indices = np.arange(start, start + size)
        yield np.minimum(indices, n_lists - 1), (indices < n_lists) / n_lists


def _of_lists(replaced, indices):
    """The replacements of some of the lists."""
    return replaced if replaced is None or replaced.shape[1] == 1 else replaced[:, indices]


def _worth(metric: str, logits, lists, unharmed):
    """The metric [B] of logits [B, n, V], larger is better; `unharmed` are intact log-probabilities."""
    if metric == "loss":
        return -metrics.token_losses(logits, lists).mean(-1)
    if metric == "kl":
        return -(jnp.exp(unharmed) * (unharmed - jax.nn.log_softmax(logits))).sum(-1).mean(-1)
    is_target = jnp.arange(logits.shape[-1]) == lists[..., None]
    target = jnp.take_along_axis(logits, lists[..., None], -1)[..., 0]
    return (target - jnp.where(is_target, -jnp.inf, logits).max(-1)).mean(-1)


def _keep_gradients(model, lists, mode: str, metric: str, keeps, seed: int) -> np.ndarray:
    """Gradients [K, E] of the mean metric in the weights of edges, at given ones [K, E]."""
    replaced = replacements(model, lists, mode, seed=seed)
    graphdef, params = nnx.split(model)
    total = 0.0
    for indices, weights in _chunks(len(lists)):
        given = _of_lists(replaced, indices)
        found = _keep_gradients_of(
            graphdef, metric, mode == "renormalize", params, keeps, lists[indices], weights, given
        )
        total += np.asarray(found, np.float64)
    return total


@functools.partial(jax.jit, static_argnums=(0, 1))
def _keep_gradients_of(graphdef, metric, renormalize, params, keeps, lists, weights, replaced):
    """Gradients [K, E] of the weighted sum of the metric over lists."""
    model = nnx.merge(graphdef, params)
    unharmed = jax.nn.log_softmax(model(lists))

    def worth(keep):
        logits = model(lists, cutting(model.config, keep, renormalize, replaced))
        return (weights * _worth(metric, logits, lists, unharmed)).sum()

    return jax.lax.map(jax.grad(worth), keeps)


def _embedded(model, lists):
    """What enters layer 0, [B, T, D]."""
    stations = model.stations(lists)
    return jnp.concatenate([jnp.broadcast_to(x, (len(lists), *x.shape[1:])) for x in stations], 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _path_scores(graphdef, metric, renormalize, params, points, lists, weights, replaced, baseline):
    """Scores [E] of `integrated_inputs`, the weighted sum over lists."""
    model = nnx.merge(graphdef, params)
    config, embedded = model.config, _embedded(model, lists)
    logits, trace = model(lists, trace=True)
    unharmed, removed = jax.nn.log_softmax(logits), _removed(model, trace, renormalize, replaced)
    layers, queries, _ = np.array(config.graph.live_edges, int).reshape(-1, 3).T
    first = np.arange(config.n_layers + 1) == 0
    where = jnp.asarray(np.broadcast_to(first[:, None], (len(first), config.n_positions)))

    def worth(added, inputs):
        residuals = first[:, None, None, None] * inputs
        logits = model(lists, Interventions(residuals=residuals, residuals_at=where, added=added))
        return (weights * _worth(metric, logits, lists, unharmed)).sum()

    def score(point):
        inputs = baseline + point * (embedded - baseline)
        nothing = jnp.zeros((config.n_layers, *embedded.shape), embedded.dtype)
        gradient = jax.grad(worth)(nothing, inputs)  # [L, B, T, D]
        return einsum("ebd,ebd->e", removed, gradient[layers, :, queries])

    return jax.lax.map(score, points).mean(0)


def _removed(model, trace, renormalize, replaced):
    """What cutting each edge takes from what its query receives, to first order, [E, B, D]."""
    found = []
    for i, (layer, query, key) in enumerate(model.config.graph.live_edges):
        block, row = model.blocks[layer], trace.patterns[layer, :, :, query]  # [B, H, T]
        residuals = trace.residuals[layer]
        values = block.attn.values(block.ln1(residuals) if block.ln1 else residuals)  # [B, T, H, C]
        value = values[:, key]
        value = jnp.where(renormalize, value - einsum("bhk,bkhc->bhc", row, values), value)
        message = block.attn.write(row[:, :, key, None] * value)
        found.append(message if replaced is None else message - replaced[i])
    return jnp.stack(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _learn(graphdef, settings, renormalize, params, key, lambdas, lists, replaced):
    """Probabilities [len(lambdas), E] of `learned_masks`."""
    metric, steps, n_groups, size, learning_rate = settings
    model = nnx.merge(graphdef, params)
    n_edges = len(model.config.graph.live_edges)
    optimiser = optax.adam(learning_rate)
    per_list = replaced is not None and replaced.shape[1] > 1

    def worth(keep, group, given):
        unharmed = jax.nn.log_softmax(model(group))
        logits = model(group, cutting(model.config, keep, renormalize, given))
        return _worth(metric, logits, group, unharmed).mean()

    gradients = jax.vmap(jax.grad(worth), (0, 0, 1 if per_list else None))

    def learn(penalty):
        def step(carry, key):
            log_odds, state = carry
            theta = jax.nn.sigmoid(log_odds)
            which, between, drawn, kind = jax.random.split(key, 4)
            indices = jax.random.randint(which, (n_groups, size), 0, len(lists))
            shape = (n_groups, n_edges)
            is_uniform = jax.random.uniform(kind, shape) < UNIFORM
            whole = (jax.random.uniform(drawn, shape) < theta).astype(theta.dtype)
            keep = jnp.where(is_uniform, jax.random.uniform(between, shape), whole)
            given = replaced[:, indices] if per_list else replaced
            found = gradients(keep, lists[indices], given)
            count = jnp.maximum(is_uniform.sum(0), 1)
            gain = jnp.where(is_uniform, found, 0.0).sum(0) / count - penalty
            updates, state = optimiser.update(-gain * theta * (1 - theta), state)
            return (log_odds + updates, state), None

        start = jnp.full(n_edges, START)
        (log_odds, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), jax.random.split(key, steps))
        return jax.nn.sigmoid(log_odds)

    return jax.vmap(learn)(lambdas)
