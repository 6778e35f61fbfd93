"""What a model can do with every set of its edges: one table, exact.

Only live edges count; dead ones are left as they are and change nothing. Sets share what they have in
common layer by layer (`versions`), lists are taken in parts that fit memory, and parts run side by side on
the cores of a CPU.

Dimensions: K sets of edges, E live edges, B lists, n outputs, V versions, D model.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.circuits.checks import check_seed, check_task, whole_number
from orderscale_jax.circuits.versions import Read, edges_read, plan
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, duration, number, percent
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.host import available_cores, check_memory, in_words
from orderscale_jax.model import ListTransformer, ModelConfig, metrics
from orderscale_jax.model.cuts import replacements
from orderscale_jax.model.interventions import check_mode, rescaled
from orderscale_jax.model.numerics import einsum
from orderscale_jax.printing import Printable

MOST_EDGES = 16  # whose sets are all tried
MEASURES = ("accuracy", "list_accuracy", "loss", "logit_difference", "kl")
BETTER = {name: -1 if name in ("loss", "kl") else 1 for name in MEASURES}
CHUNK_BYTES = 96 * 2**20  # of scores, logits and residuals alive at once in one part
TYPICAL_SECONDS = 2e-4  # for a set of 22 edges and 1,000 lists, on two cores
SETTINGS = ("enable_x64", "default_matmul_precision", "default_device")  # of JAX, each thread has its own

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, repr=False)
class CircuitTable(Printable):
    """What a model does with sets of its edges.

    Attributes:
      graph: of the model.
      mode: what it means that an edge is cut (`model.cuts`).
      seed: of what `resample` drew.
      n_lists: B.
      kept: bool [K, E], the live edges (`graph.live_edges`) that each set keeps.
      accuracy: fraction of lists of which output i is right, [K, n].
      list_accuracy: fraction of lists right in all outputs, [K].
      loss: mean cross-entropy of each output in nats, [K, n].
      logit_difference: mean of the right digit's logit less the largest of all others, [K, n].
      kl: mean Kullback-Leibler divergence of the output from that of the intact model, in nats, [K, n].
      worst: by measure, its value (the mean over outputs) for the list for which it is worst, [K].
      right: by output, for every version bits of which lists are right, uint8 [V, ceil(B / 8)].
      version: int [K, n], the version in which each output ends.
    """

    graph: Graph
    mode: str
    seed: int
    n_lists: int
    kept: np.ndarray
    accuracy: np.ndarray
    list_accuracy: np.ndarray
    loss: np.ndarray
    logit_difference: np.ndarray
    kl: np.ndarray
    worst: dict[str, np.ndarray]
    right: tuple[np.ndarray, ...]
    version: np.ndarray

    @property
    def edges(self) -> tuple[Edge, ...]:
        return self.graph.live_edges

    @property
    def is_complete(self) -> bool:
        """Whether row i is the set whose bit e tells that edge e is kept, for all 2^E sets."""
        K, E = self.kept.shape
        return K == 2**E and bool((self.kept == all_sets(E)).all())

    def values(self, measure: str = "accuracy", output: int | None = None) -> np.ndarray:
        """A measure [K], the mean over outputs or that of one of them.

        Raises:
          UserError: there is no such measure or output, or the measure belongs to no single output.
        """
        check_measure(measure)
        found = getattr(self, measure)
        if found.ndim == 1:
            if output is not None:
                raise UserError(f"{measure} is of all outputs together, and not of output {output}")
            return found
        if output is not None:
            return found[:, whole_number("output", output, 0, found.shape[1] - 1)]
        if measure == "accuracy":  # sets with as many outputs right are equal to the last bit
            return np.rint(found * self.n_lists).sum(1) / (found.shape[1] * self.n_lists)
        return found.mean(1)

    def correct(self, row: int) -> np.ndarray:
        """bool [B, n], which outputs are right with the set of this row; UserError if there is none."""
        row = whole_number("row", row, 0, len(self.kept) - 1)
        bits = [right[v] for right, v in zip(self.right, self.version[row], strict=True)]
        return np.stack([np.unpackbits(b, count=self.n_lists).astype(bool) for b in bits], 1)

    def table(self) -> str:
        """The sets with all edges, with none, and with each edge cut or kept alone."""
        if not self.is_complete:
            return f"{len(self.kept):,} sets of {len(self.edges)} edges, {self.n_lists:,} lists"
        E, full = len(self.edges), len(self.kept) - 1
        rows = [(f"edges ({self.mode})", "outputs right", "lists right", "loss", "cut alone", "kept alone")]
        for name, row in (("all", full), ("none", 0)):
            rows.append((name, percent(self.values()[row]), percent(self.list_accuracy[row]),
                         number(self.values("loss")[row], 3)))  # fmt: skip
        for i in range(E):
            cut, alone = self.values()[[full - 2**i, 2**i]]
            rows.append((self.graph.label(self.edges[i]), "", "", "", percent(cut), percent(alone)))
        return columns(rows)


def all_sets(n_edges: int) -> np.ndarray:
    """bool [2^E, E]: bit e of the row's index tells whether edge e is kept."""
    return (np.arange(2**n_edges)[:, None] >> np.arange(n_edges) & 1).astype(bool)


def check_measure(measure: str):
    """UserError unless `measure` is one of MEASURES."""
    if not isinstance(measure, str) or measure not in MEASURES:
        raise UserError(f"measure must be one of {', '.join(MEASURES)}; got {measure!r}")


def circuit_table(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> CircuitTable:
    """Tries every set of the model's live edges on lists [B, n].

    Args:
      model: any model with at most MOST_EDGES live edges.
      lists: digits, also the targets.
      mode: `renormalize`, `zero`, `mean` or `resample`, see `model.cuts`.
      seed: of what `resample` draws.
      progress: called with the lists done and their number.

    Raises:
      UserError: the mode does not exist, there are no lists or they do not fit the model, some of its weights
        are not finite, the seed is not valid, or the model has too many edges. In that case use `score_sets`
        with the sets that you want, or `circuits.sampling`, which draws some.
    """
    check_kind("model", model, ListTransformer)
    lists = np.asarray(model.config.check_lists(lists))
    n_edges = len(model.config.graph.live_edges)
    if reason := why_not_exact(n_edges, len(lists)):
        raise UserError(f"{reason}: draw some of them with circuits.sample_shapley")
    return score_sets(model, lists, all_sets(n_edges), mode, seed=seed, progress=progress)


def why_not_exact(n_edges: int, n_lists: int) -> str | None:
    """Why not all sets of so many edges are tried, and what that would take; None if they are."""
    if n_edges <= MOST_EDGES:
        return None
    n_sets = 2**n_edges
    seconds, n_bytes = n_sets * n_lists / 1000 * TYPICAL_SECONDS, n_sets * (9 * n_edges + n_lists // 4)
    return (
        f"this model has {n_edges} live edges, so there are 2^{n_edges} = {n_sets:,} sets of them, and all "
        f"are tried up to 2^{MOST_EDGES}; on {n_lists:,} lists they would take about {duration(seconds)} and "
        f"{in_words(n_bytes)} of memory"
    )


def score_sets(
    model: ListTransformer,
    lists,
    kept,
    mode: str = "renormalize",
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> CircuitTable:
    """Tries given sets of live edges, bool [K, E]; otherwise as `circuit_table`.

    Raises:
      UserError: as there, or `kept` has another shape or type.
    """
    lists = check_task(model, lists)
    check_mode(mode)
    seed, config, graph = check_seed(seed), model.config, model.config.graph
    E = len(graph.live_edges)
    try:
        kept = np.asarray(kept)
    except ValueError:
        raise UserError(
            f"sets of edges are truth values [K, {E}], a column per live edge; got rows of different lengths"
        ) from None
    if kept.dtype != bool or kept.ndim != 2 or kept.shape[1] != E or not len(kept):
        raise UserError(
            f"sets of edges are truth values [K, {E}], a column per live edge; got {kept.dtype} "
            f"{list(kept.shape)}"
        )
    check_memory(
        len(kept) * (8 * E + 60 * config.list_len), "the table of these sets takes", "give fewer sets"
    )
    replaced = replacements(model, lists, mode, seed=seed)
    # The intact model is a set too: KL needs it.
    of_all = len(kept) == 2**E
    layers, version = plan(graph, np.concatenate([kept, np.ones((1, E), bool)]), fill_up=not of_all)
    version, intact = version[:-1], version[-1]
    platform = jax.default_backend()
    at_once, cores = _versions_at_once(platform), available_cores() if platform == "cpu" else 1
    parts = _parts(lists, replaced, _lists_at_once(config, layers, len(lists), at_once, cores))
    graphdef, params = nnx.split(model)
    judged = functools.partial(_judge, graphdef, at_once, mode == "renormalize", params, layers, intact)
    total = _Total(len(kept), version)
    for found, n_lists in _side_by_side(judged, parts, cores):
        total.add(found, n_lists)
        if progress is not None:
            progress(total.n_lists, len(lists))
    return CircuitTable(graph, mode, seed, len(lists), kept, **total.fields(), version=version)


class _Total:
    """Sums over lists, as the parts come in."""

    def __init__(self, n_sets: int, version: np.ndarray):
        self.version, self.n_lists = version, 0
        self.list_right = np.zeros(n_sets)
        self.sums: dict[str, list[np.ndarray]] = {}
        self.worst = {name: np.full(n_sets, np.inf) for name in MEASURES}
        self.bits = []

    def add(self, found, n_lists: int):
        """`found` has arrays [V, b] by measure and output, of which the first `n_lists` lists count."""
        found = {name: [x[:, :n_lists] for x in of_outputs] for name, of_outputs in found.items()}
        of_version = list(self.version.T)
        for name, of_outputs in found.items():
            sums = [x.sum(1, dtype=np.float64) for x in of_outputs]
            known = self.sums.setdefault(name, [np.zeros_like(x) for x in sums])
            self.sums[name] = [a + b for a, b in zip(known, sums, strict=True)]
            of_list = sum(x[v] for x, v in zip(of_outputs, of_version, strict=True)) / np.float32(
                len(of_outputs)
            )
            worst = (BETTER[name] * of_list).min(1)
            self.worst[name] = np.minimum(self.worst[name], worst)
            if name == "accuracy":
                whole = of_list == 1
                self.list_right += whole.sum(1)
                self.worst["list_accuracy"] = np.minimum(self.worst["list_accuracy"], whole.min(1))
        self.bits.append([x.astype(bool) for x in found["accuracy"]])
        self.n_lists += n_lists

    def fields(self) -> dict:
        """The attributes of `CircuitTable` that are measured."""
        by_set = {
            name: np.stack([x[v] for x, v in zip(sums, self.version.T, strict=True)], 1) / self.n_lists
            for name, sums in self.sums.items()
        }
        right = tuple(np.packbits(np.concatenate(bits, 1), 1) for bits in zip(*self.bits, strict=True))
        worst = {name: BETTER[name] * x for name, x in self.worst.items()}
        return by_set | {"list_accuracy": self.list_right / self.n_lists, "worst": worst, "right": right}


def _versions_at_once(platform: str) -> int:
    """Of an output: on a CPU as many as keep their logits in a core's cache, elsewhere as fill the device."""
    return 8 if platform == "cpu" else 256


def _lists_at_once(config: ModelConfig, layers, n_lists: int, at_once: int, cores: int) -> int:
    """How many of the lists a part takes, so that its arrays fit CHUNK_BYTES and every core gets as many."""
    graph, scores, held = config.graph, 0, 0
    versions = dict.fromkeys(range(graph.n_positions), 1)
    for layer, reads in enumerate(layers):
        for query in reads:
            scores += versions[query] * sum(versions[edge.key] for edge in graph.reads(layer, query))
        versions = {
            query: versions[query] if read is None else len(read.own) for query, read in reads.items()
        }
        held += sum(versions.values())
    seen = sum(versions.values())
    logits = at_once * (4 * config.d_model + 2 * config.d_vocab)
    per_list = 4 * ((held - seen) * 4 * config.d_model + scores * config.n_heads + 4 * seen + logits)
    n_parts = -(-n_lists // max(1, CHUNK_BYTES // per_list))
    n_parts = min(n_lists, -(-n_parts // cores) * cores)
    return -(-n_lists // n_parts)


def _parts(lists, replaced, size: int) -> Iterator[tuple]:
    """Lists and replacements in parts of one size, with how many of the lists count."""
    for start in range(0, len(lists), size):
        indices = np.minimum(np.arange(start, start + size), len(lists) - 1)
        given = None
        if replaced is not None:
            given = jnp.asarray(replaced if replaced.shape[1] == 1 else replaced[:, indices])
        yield jnp.asarray(lists[indices]), given, min(size, len(lists) - start)


def _side_by_side(judge, parts, cores: int) -> Iterator[tuple]:
    """What `judge` finds of every part in turn; a part on every core, with the settings of this thread."""
    settings = [(getattr(jax, name), getattr(jax.config, f"jax_{name}")) for name in SETTINGS]

    def judged(*part):
        with contextlib.ExitStack() as stack:
            for setting, value in settings:
                stack.enter_context(setting(value))
            return jax.device_get(judge(*part))

    with ThreadPoolExecutor(cores) as pool:
        running = collections.deque()
        for lists, replaced, n_lists in parts:
            running.append((pool.submit(judged, lists, replaced), n_lists))
            if len(running) > cores:
                done, count = running.popleft()
                yield done.result(), count
        for done, count in running:
            yield done.result(), count


@functools.partial(jax.jit, static_argnums=(0, 1))
def _judge(graphdef, at_once: int, renormalize, params, layers, intact, lists, replaced):
    """Every measure but `list_accuracy` of every version of each output: {name: n arrays [V, B]}.

    `layers` and the versions `intact` [n] of the intact model are as `versions.plan` gives them.
    """
    model = nnx.merge(graphdef, params)
    graph = model.config.graph
    stations = jnp.concatenate(
        [jnp.broadcast_to(x, (len(lists), *x.shape[1:])) for x in model.stations(lists)], 1
    )
    held = {position: stations[None, :, position] for position in range(graph.n_positions)}  # [V, B, D]
    for layer, reads in enumerate(layers[:-1]):
        after = {}
        for query, read in reads.items():
            finish = _reader(model, layer, query, held, renormalize, replaced)
            after[query] = finish(None) if read is None else jax.vmap(finish)(read)
        held = after
    found = collections.defaultdict(list)
    for i, (output, read) in enumerate(layers[-1].items()):
        finish = _reader(model, len(layers) - 1, output, held, renormalize, replaced)
        if read is None:  # one layer, in which outputs read nothing
            final = finish(None)
            finish, read = final.__getitem__, jnp.arange(len(final))
        of_output = _see(model, finish, read, intact[i], lists[:, i], at_once)
        for name, values in of_output.items():
            found[name].append(values)
    return dict(found)


def _see(model, finish, rows, intact, targets, at_once: int):
    """The same of one output's versions [V, B]; `finish` gives the residual of one of the `rows`."""
    unharmed = jax.nn.log_softmax(model.logits(finish(jax.tree.map(lambda x: x[intact], rows))))

    def see(row):
        return _measure(model.logits(finish(row)), targets, unharmed)

    return jax.lax.map(see, rows, batch_size=at_once)


def _reader(model, layer: int, query: int, held, renormalize, replaced):
    """A function of one row of a `Read`: the residual [B, D] of that version of `query` after `layer`.

    Where `query` reads nothing, of None: the residuals [V, B, D] of all its versions.
    """
    block, edges = model.blocks[layer], edges_read(model.config.graph, layer, query)
    silence = jnp.squeeze(block.attn.silence())
    if not edges:
        return lambda _: block.feed_forward(held[query] + silence)
    normed = block.ln1 or (lambda x: x)
    queries = block.attn.project(normed(held[query]), "Q")
    sources = {edge.key: normed(held[edge.key]) for _, edge in edges}
    keys = {key: block.attn.project(x, "K") for key, x in sources.items()}
    values = {key: block.attn.values(x) for key, x in sources.items()}
    scale = np.sqrt(model.config.d_head)
    scores = [einsum("abhc,vbhc->avbh", queries, keys[edge.key]) / scale for _, edge in edges]

    def finish(read: Read):
        own = [table[read.own, read.keys[m]] for m, table in enumerate(scores)]
        pattern = jax.nn.softmax(jnp.stack(own, -1))  # [B, H, M]
        kept = pattern * read.keep
        left, lost = (x.sum(-1, keepdims=True) for x in (kept, pattern - kept))
        kept = jnp.where(renormalize, rescaled(kept, left, lost), kept)
        mixed = sum(kept[..., m, None] * values[edge.key][read.keys[m]] for m, (_, edge) in enumerate(edges))
        message = block.attn.write(mixed) + silence
        if replaced is not None:
            message += sum((1 - read.keep[m]) * replaced[i] for m, (i, _) in enumerate(edges))
        return block.feed_forward(held[query][read.own] + message)

    return finish


def _measure(logits, targets, unharmed):
    """The same of logits [B, V] for each list; `unharmed` are the intact model's log-probabilities."""
    target = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
    is_target = jnp.arange(logits.shape[-1]) == targets[:, None]
    other = jnp.where(is_target, -jnp.inf, logits).max(-1)
    top = jnp.maximum(target, other)
    total = top + jnp.log(jnp.exp(logits - top[:, None]).sum(-1))
    divergence = (jnp.exp(unharmed) * (unharmed - logits + total[:, None])).sum(-1)
    return {
        "accuracy": metrics.is_correct(logits, targets),
        "loss": total - target,
        "logit_difference": target - other,
        "kl": jnp.maximum(divergence, 0.0),
    }
