"""Which attention edges does a model need? Every edge cut, one at a time, in one compiled pass.

An edge upstream of no output is dead: cutting it changes nothing, so nothing is computed for it.
The live ones share what they have in common: scores and rows of logits in the scale form, every layer
before the cut in the residual form.

Dimensions: B lists, E edges, n outputs (paper, section 4.1 and Figure 1).
"""

from __future__ import annotations

import dataclasses
import functools
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import MODE_WORDS, columns, percent, points
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import MODES, Interventions, ListTransformer, keep_weights, metrics, scales
from orderscale_jax.model.cuts import cutting, replacements
from orderscale_jax.model.interventions import Pass, check_head, check_mode
from orderscale_jax.model.scales import LogitTable, Scales
from orderscale_jax.printing import Printable

CHUNK_BYTES = 256 * 2**20  # of residuals or logits alive at once while variants run side by side
TOLERANCE = 0.01  # of accuracy, unless said; an edge that costs more is critical
ROUNDING = 1e-9  # of accuracy: an edge that costs just the tolerance is not critical, however it is rounded


@dataclasses.dataclass(frozen=True, repr=False)
class EdgeAblation(Printable):
    """What cutting each edge does to accuracy.

    Attributes:
      mode: what it means to cut an edge, see `model.cuts`.
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
    def graph(self) -> Graph:
        return Graph(max(edge.query for edge in self.edges) // 2, 1 + max(edge.layer for edge in self.edges))

    @property
    def deltas(self) -> np.ndarray:
        """Change of accuracy [E]."""
        return self.accuracies - self.accuracy

    @property
    def critical(self) -> tuple[Edge, ...]:
        limit = -self.tolerance - ROUNDING
        return tuple(e for e, delta in zip(self.edges, self.deltas, strict=True) if delta < limit)

    def table(self) -> str:
        """A line per edge: accuracy with it cut, the change in percentage points, and what it is."""
        rows = [(f"edge cut ({MODE_WORDS[self.mode]})", "outputs right", "change", "")]
        for edge, live, accuracy in zip(self.edges, self.live, self.accuracies, strict=True):
            kind = "critical" if edge in self.critical else "live" if live else "dead"
            rows.append((self.graph.label(edge), *self._change(accuracy), kind))
        rows.append(("nothing", percent(self.accuracy)))
        rows.append(("all that are not critical", *self._change(self.accuracy_without_non_critical)))
        return columns(rows)

    def _change(self, accuracy: float) -> tuple[str, str]:
        return percent(accuracy), points(accuracy - self.accuracy, 2)


def ablate_edges(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    head: int | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> EdgeAblation:
    """Evaluates the intact model and every single-edge ablation on lists [B, n].

    Args:
      model: any model.
      lists: digits [B, n], also the targets.
      mode: `renormalize` or `zero`, as published, or `mean` or `resample`, see `model.cuts`.
      head: cut in this head only; None cuts in all.
      tolerance: see `EdgeAblation`.
      seed: of what `resample` draws.

    Raises:
      UserError: the mode or head does not exist, the tolerance is no fraction, or the lists do not fit the
        model.
    """
    check_kind("model", model, ListTransformer)
    config = model.config
    check_mode(mode)
    check_head(config, head)
    if not isinstance(tolerance, numbers.Real) or not 0 <= tolerance <= 1:
        raise UserError(f"tolerance must be a fraction, from 0 to 1; got {tolerance!r}")
    lists = config.check_lists(lists)
    if not len(lists):
        raise UserError("ablation needs at least one list")
    graphdef, params = nnx.split(model)
    affordable = int((tolerance + ROUNDING) * lists.size)  # outputs that an edge may cost uncritically
    if mode in MODES:
        counts = jax.device_get(count_right(graphdef, params, lists, mode, head, affordable))
    else:
        counts = _count_replaced(model, np.asarray(lists), mode, head, affordable, seed)
    intact, cut, rest = counts
    graph = config.graph
    live = np.array([graph.is_live(edge) for edge in graph.edges])
    correct = np.tile(intact, (len(graph.edges), 1))
    correct[live] = cut
    return EdgeAblation(
        mode=mode,
        head=head,
        edges=graph.edges,
        live=live,
        accuracy=float(intact.sum() / lists.size),
        accuracies=correct.sum(1) / lists.size,
        position_accuracies=correct / len(lists),
        tolerance=tolerance,
        accuracy_without_non_critical=float(rest.sum() / lists.size),
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def count_right(graphdef, params, lists, mode: str, head: int | None, affordable):
    """Lists right of each output: intact [n], every live edge cut [E, n], all non-critical ones cut [n]."""
    model = nnx.merge(graphdef, params)
    config, renormalize = model.config, mode == "renormalize"
    n_edges = len(config.graph.live_edges)
    in_scales = scales.is_faster(config)
    if in_scales:
        each = jnp.concatenate([jnp.ones((1, n_edges)), 1 - jnp.eye(n_edges)])
        counts = _in_scales(model, lists, renormalize, each)
        intact, cut = counts[0], counts[1:]
    else:
        intact, cut = _cut_residuals(model, lists, renormalize, head)
    is_critical = (intact - cut).sum(-1) > affordable

    def together():  # dead edges may be left in place: they change nothing
        if in_scales:
            return _in_scales(model, lists, renormalize, is_critical[None].astype(jnp.float32))[0]
        weights = jnp.asarray(keep_weights(config, (), head=head))
        for i, edge in enumerate(config.graph.live_edges):
            weights *= jnp.where(is_critical[i], 1.0, keep_weights(config, [edge], head=head))
        return _count(model(lists, Interventions(weights, renormalize)), lists)

    rest = jax.lax.cond(is_critical.all(), lambda: intact, together)
    return intact, cut, rest


def _in_scales(model: ListTransformer, lists, renormalize: bool, keeps):
    """Lists right [K, n] where live edge e weighs keeps[k, e], in the scale form.

    Scores and rows of logits are looked up once for all variants, which differ in a few numbers a list.
    """
    graph, table = model.config.graph, LogitTable(model)

    def one_chunk(lists):
        rows = table.rows(lists)

        def one(keep):
            weights = {edge: keep[i] for i, edge in enumerate(graph.live_edges)}
            residuals = Scales(model, lists, weights, renormalize)
            counts = []
            for output in graph.outputs:
                logits = table.logits(residuals.final(output), rows)
                logits = jnp.broadcast_to(logits, (len(lists), table.width))
                counts.append(_count(logits, lists[:, output - graph.sep - 1]))
            return jnp.stack(counts)

        return jax.vmap(one)(keeps)

    return _sum_over_chunks(one_chunk, lists, 4 * table.width * len(keeps))


def _cut_residuals(model: ListTransformer, lists, renormalize: bool, head: int | None):
    """Lists right (intact [n], cut [E, n]) for any model, sharing every layer before the cut one."""
    config, edges = model.config, model.config.graph.live_edges
    by_layer = {layer: [e for e in edges if e.layer == layer] for layer in range(config.n_layers)}

    def count(outputs, lists):
        logits = jnp.broadcast_to(model.logits(outputs), (*lists.shape, config.d_vocab))
        return _count(logits, lists)

    def one_chunk(lists):
        """Lists right [1+E, n]."""
        stations, counts = model.stations(lists), []
        for layer, cuts in by_layer.items():

            def finish(keep, stations=stations, layer=layer):
                *_, outputs = model.layers(stations, Pass(Interventions(keep, renormalize)), first=layer)
                return count(outputs, lists)

            if cuts:
                keeps = jnp.stack([keep_weights(config, [edge], head=head) for edge in cuts])
                counts.append(jax.vmap(finish)(keeps))
            stations = model.layers(stations, Pass(), first=layer, last=layer + 1)
        return jnp.concatenate([count(stations[2], lists)[None], *counts])

    most = max(1, *map(len, by_layer.values()))
    counts = _sum_over_chunks(one_chunk, lists, 4 * config.n_positions * config.d_model * most)
    return counts[0], counts[1:]


def _count_replaced(model: ListTransformer, lists, mode: str, head: int | None, affordable, seed: int):
    """As `count_right`, for modes in which the message of a cut edge is replaced."""
    config, (graphdef, params) = model.config, nnx.split(model)
    replaced = replacements(model, lists, mode, seed=seed, head=head)
    size = max(1, CHUNK_BYTES // (8 * config.n_layers * config.n_positions * config.d_model))

    def count(keep):
        counts = 0
        for start in range(0, len(lists), size):
            part = slice(start, start + size)
            given = replaced if replaced.shape[1] == 1 else replaced[:, part]
            counts += np.asarray(_count_cut(graphdef, params, lists[part], np.float32(keep), given, head))
        return counts

    n_edges = len(config.graph.live_edges)
    intact = count(np.ones(n_edges))
    cut = (
        np.stack([count(keep) for keep in 1 - np.eye(n_edges)]) if n_edges else np.zeros((0, config.list_len))
    )
    is_critical = (intact - cut).sum(-1) > affordable
    return intact, cut, intact if is_critical.all() else count(is_critical)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _count_cut(graphdef, params, lists, keep, replaced, head: int | None):
    """Lists right [n] where live edges weigh `keep` [E] and their replacements the rest."""
    model = nnx.merge(graphdef, params)
    return _count(model(lists, cutting(model.config, keep, False, replaced, head=head)), lists)


def _sum_over_chunks(one_chunk, lists, bytes_per_list: int):
    """The sum of `one_chunk(lists [b, n])` over chunks that take CHUNK_BYTES at most.

    The last chunk is filled up with digits of -1, which `_count` leaves out.
    """
    size = min(len(lists), max(1, CHUNK_BYTES // bytes_per_list))
    padded = jnp.pad(lists, ((0, -len(lists) % size), (0, 0)), constant_values=-1)
    return jax.lax.map(one_chunk, padded.reshape(-1, size, lists.shape[1])).sum(0)


def _count(logits, targets):
    """How many of B targets [B, ...] are right; a target of -1 stands for none."""
    return (metrics.is_correct(logits, targets) & (targets >= 0)).sum(0)
