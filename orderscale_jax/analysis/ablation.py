"""Which attention edges does a model need? Every edge cut, one at a time, in one compiled pass.

An edge upstream of no output is dead: cutting it changes nothing, so nothing is computed for it.
The live ones share with the intact model whatever lies upstream of the cut.

Dimensions: B lists, E edges, n outputs (paper, section 4.1 and Figure 1).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax import metrics, scales
from orderscale_jax.graph import Edge
from orderscale_jax.model import Interventions, ListTransformer, keep_weights
from orderscale_jax.scales import LogitTable, Scales
from orderscale_jax.task import check_lists

MODES = ("renormalize", "zero")
LONGEST_IN_SCALES = 2  # digits; beyond, one pass is not worth compiling every variant's scales
CHUNK_BYTES = 256 * 2**20  # of residuals or logits alive at once while variants run side by side


@dataclasses.dataclass(frozen=True)
class EdgeAblation:
    """What cutting each edge does to accuracy.

    Attributes:
      mode: `renormalize` rescales the cut row to sum 1 (an emptied row stays 0), `zero` does not.
      head: the head in which edges were cut; None for all.
      edges: every edge of the graph, by layer, query and key.
      live: bool [E]; a dead edge cannot reach any output.
      accuracy: of the intact model.
      accuracies: float [E], with that edge cut.
      position_accuracies: float [E, n], the same for each output.
      tolerance: an edge is critical if cutting it costs more than this.
      accuracy_without_non_critical: with every edge cut that is not critical, together.
    """

    mode: str
    head: int | None
    edges: tuple[Edge, ...]
    live: np.ndarray
    accuracy: float
    accuracies: np.ndarray
    position_accuracies: np.ndarray
    tolerance: float
    accuracy_without_non_critical: float

    @property
    def deltas(self) -> np.ndarray:
        """Change of accuracy [E]."""
        return self.accuracies - self.accuracy

    @property
    def critical(self) -> tuple[Edge, ...]:
        return tuple(e for e, delta in zip(self.edges, self.deltas, strict=True) if delta < -self.tolerance)


def ablate_edges(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    head: int | None = None,
    tolerance: float = 0.01,
) -> EdgeAblation:
    """Evaluates the intact model and every single-edge ablation on lists [B, n].

    Args:
      model: any model.
      lists: digits [B, n], also the targets.
      mode: `renormalize` or `zero`.
      head: cut in this head only; None cuts in all.
      tolerance: see `EdgeAblation`.

    Raises:
      ValueError: the mode or head does not exist, or the lists do not fit the model.
    """
    config = model.config
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    keep_weights(config, (), head=head)  # for its check of the head
    lists = jnp.asarray(check_lists(lists, config.list_len, config.n_digits))
    if not len(lists):
        raise ValueError("ablation needs at least one list")
    graphdef, params = nnx.split(model)
    intact, cut, rest = jax.device_get(_evaluate(graphdef, params, lists, mode, head, tolerance))
    graph = config.graph
    live = np.array([graph.is_live(edge) for edge in graph.edges])
    position_accuracies = np.tile(np.float64(intact), (len(graph.edges), 1))
    position_accuracies[live] = cut
    return EdgeAblation(
        mode=mode,
        head=head,
        edges=graph.edges,
        live=live,
        accuracy=float(np.mean(intact, dtype=np.float64)),
        accuracies=position_accuracies.mean(axis=1),
        position_accuracies=position_accuracies,
        tolerance=tolerance,
        accuracy_without_non_critical=float(np.mean(rest, dtype=np.float64)),
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _evaluate(graphdef, params, lists, mode: str, head: int | None, tolerance):
    """Accuracy per output: intact [n], of every live edge's cut [E, n], of all non-critical cuts [n]."""
    model = nnx.merge(graphdef, params)
    config, renormalize = model.config, mode == "renormalize"
    with jax.default_matmul_precision("highest"):
        in_scales = scales.pays(config) and config.list_len <= LONGEST_IN_SCALES
        if in_scales:
            intact, cut = _cut_scales(model, lists, renormalize)
        else:
            intact, cut = _cut_residuals(model, lists, renormalize, head)
        is_critical = (cut - intact).mean(-1) < -tolerance
        together = _together_scales if in_scales else functools.partial(_together_residuals, head=head)
        rest = jax.lax.cond(
            is_critical.all(),
            lambda: intact,
            lambda: together(model, lists, renormalize, is_critical.astype(jnp.float32)),
        )
    return intact, cut, rest


def _cut_scales(model: ListTransformer, lists, renormalize: bool):
    """(intact [n], cut [E, n]) in the scale form: residuals shared by variants are the same object."""
    graph = model.config.graph
    residuals, table = Scales(model, lists), LogitTable(model)
    rows = table.rows(lists)
    variants = [frozenset(), *(frozenset([edge]) for edge in graph.live_edges)]
    columns = []
    for output in graph.outputs:
        finals = [residuals.final(output, cuts, renormalize) for cuts in variants]
        distinct = list({id(final): final for final in finals}.values())
        accuracies = _accuracies(table, rows, distinct, lists[:, output - graph.sep - 1])
        places = [next(i for i, other in enumerate(distinct) if other is final) for final in finals]
        columns.append(accuracies[jnp.array(places)])
    accuracies = jnp.stack(columns, axis=1)
    return accuracies[0], accuracies[1:]


def _together_scales(model: ListTransformer, lists, renormalize: bool, kept):
    """Accuracy [n] where live edge e weighs kept[e], 0 or 1; dead edges change nothing and stay."""
    graph = model.config.graph
    residuals = Scales(model, lists, {edge: kept[i] for i, edge in enumerate(graph.live_edges)})
    table = LogitTable(model)
    rows = table.rows(lists)
    found = []
    for output in graph.outputs:
        final = residuals.final(output, renormalize=renormalize)
        found.append(_accuracies(table, rows, [final], lists[:, output - graph.sep - 1]))
    return jnp.concatenate(found)


def _together_residuals(model: ListTransformer, lists, renormalize: bool, kept, *, head: int | None):
    """`_together_scales` for any model."""
    config = model.config
    weights = jnp.asarray(keep_weights(config, (), head=head))
    for i, edge in enumerate(config.graph.live_edges):
        weights *= jnp.where(kept[i] > 0, 1.0, keep_weights(config, [edge], head=head))
    return metrics.is_correct(model(lists, Interventions(weights, renormalize)), lists).mean(0)


def _accuracies(table: LogitTable, rows, residuals: list[dict], targets):
    """Accuracy [K] of one output for each of K residuals in scales, over targets [B]."""
    sources = sorted(set().union(*residuals))
    stacked = {  # [K, B]: a source that a residual lacks has scale 0
        s: jnp.stack([jnp.broadcast_to(jnp.asarray(r.get(s, 0.0)), targets.shape) for r in residuals])
        for s in sources
    }

    def one(residual):
        return metrics.is_correct(table.logits(residual, rows), targets).mean()

    together = len(residuals) * len(targets) * table.width * 4 <= CHUNK_BYTES
    return jax.vmap(one)(stacked) if together else jax.lax.map(one, stacked)


def _cut_residuals(model: ListTransformer, lists, renormalize: bool, head: int | None):
    """(intact [n], cut [E, n]) for any model, sharing every layer before the cut one."""
    config, edges = model.config, model.config.graph.live_edges
    by_layer = {layer: [e for e in edges if e.layer == layer] for layer in range(config.n_layers)}
    per_list = 4 * config.n_positions * config.d_model * max(1, *map(len, by_layer.values()))

    def correct(outputs, lists):
        logits = jnp.broadcast_to(model.logits(outputs), (*lists.shape, config.d_vocab))
        return metrics.is_correct(logits, lists)

    def one_chunk(lists):
        """Correct outputs [1+E, b, n] of a chunk of b lists."""
        stations, found = model.stations(lists), []
        for layer, cuts in by_layer.items():

            def finish(keep, stations=stations, layer=layer):
                *_, outputs = model.layers(stations, Interventions(keep, renormalize), first=layer)
                return correct(outputs, lists)

            if cuts:
                keeps = jnp.stack([keep_weights(config, [edge], head=head) for edge in cuts])
                found.append(jax.vmap(finish)(keeps))
            stations = model.layers(stations, first=layer, last=layer + 1)
        return jnp.concatenate([correct(stations[2], lists)[None], *found])

    size = min(len(lists), max(1, CHUNK_BYTES // per_list))
    padding = -len(lists) % size
    padded = jnp.pad(lists, ((0, padding), (0, 0)), constant_values=-1)  # of no list: never correct
    flags = jax.lax.map(one_chunk, padded.reshape(-1, size, lists.shape[1]))
    accuracies = (flags & (padded >= 0).reshape(-1, 1, size, lists.shape[1])).sum((0, 2)) / len(lists)
    return accuracies[0], accuracies[1:]
