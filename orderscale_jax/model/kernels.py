"""What training does list by list, from tables to their gradient, without a batch of logits in memory.

On an accelerator the logits of a batch, once written to memory, cost more than all else in a training
step. Here a block of lists at a time stays on the chip: what the list's tokens and positions score and
write is looked up, mixed, normalised, and what the loss pulls back is summed into the gradient of the
table. One kernel does so with Pallas for TPUs, one for NVIDIA GPUs.

Looking rows up and summing them back are products with matrices of zeros and ones. These are exact in
bfloat16, so three products with the three bfloat16 parts of a float32 number make a float32 product.

Dimensions: B lists, n digits and outputs, M rows, W columns, K given scores.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from orderscale_jax.graph import Graph
from orderscale_jax.model.scales import IMPOSSIBLE, Mixing

TILE = 128  # rows and columns come in multiples of it
TPU_LISTS = 512  # that are taken at once
LN_2 = math.log(2)
# A GPU counts a logit more powers of two above those of its list's digits as so many.
GPU_HEADROOM = 80.0
GPU_LISTS, LISTS_TILE, TABLE_TILE, SCORES_TILE = 256, 16, 32, 64
LISTS_WARPS, TABLE_WARPS, TABLE_COLUMNS = 8, 4, 32
MOST_TAKEN = 2 * TILE**2  # of larger sets the lists are gathered


@dataclasses.dataclass(frozen=True)
class Readout:
    """What the kernel is made for.

    The table [M, W] has a row per token and per position; what a source writes, or scores as a key, is the
    sum of its two rows. The first columns are logits, the next are scores.

    Attributes:
      n_lists: B.
      n_tokens: V, the number of columns that are logits.
      graph: who reads whom.
      tokens: per source the row of its token, None where that is the digit of the list.
      positions: per source the row of its position.
      queries: per column of scores the (layer, source) that asks.
      scores: all (layer, query, key) that are needed.
    """

    n_lists: int
    n_tokens: int
    graph: Graph
    tokens: tuple[int | None, ...]
    positions: tuple[int, ...]
    queries: tuple[tuple[int, int], ...]
    scores: tuple[tuple[int, int, int], ...]

    @property
    def weight(self) -> float:
        """Of one output of one list in the loss."""
        return 1.0 / (self.n_lists * self.graph.list_len)

    @property
    def given(self) -> tuple[tuple[int, int, int], ...]:
        """The scores that are not in the table: those of digits that ask."""
        return tuple(edge for edge in self.scores if self.tokens[edge[1]] is None)

    @property
    def choices(self) -> dict[tuple[int, int], int]:
        """How many keys each (layer, query) has that chooses between several."""
        numbers = collections.Counter((edge.layer, edge.query) for edge in self.graph.live_edges)
        return {at: number for at, number in numbers.items() if number > 1}

    @property
    def n_score_columns(self) -> int:
        """Columns that are kept for scores."""
        return max(16, 1 << (len(self.queries) - 1).bit_length())

    def column(self, layer: int, query: int) -> int:
        return self.n_tokens + self.queries.index((layer, query))

    def weights(self, scores, shape) -> dict[tuple[int, int], list[jax.Array]]:
        """The attention of each (layer, query) that chooses between keys, each weight of `shape`."""
        of_edge = dict(zip(self.scores, scores, strict=True))
        mixing = Mixing(self.graph, lambda *edge: of_edge[edge])
        for output in self.graph.outputs:
            mixing.final(output)
        return {at: [jnp.broadcast_to(x, shape) for x in mixing.attended[at]] for at in self.choices}

    def logits(self, shape, weights, writes) -> list[jax.Array]:
        """What reaches each output's logits, of `shape`, from what every source writes."""

        @functools.cache
        def residual(layer: int, position: int):
            if layer == 0:
                return writes[position]
            mixed = residual(layer - 1, position)
            edges = self.graph.reads(layer - 1, position)
            shares = weights.get((layer - 1, position), [None])
            for edge, share in zip(edges, shares, strict=len(edges) > 0):
                read = residual(layer - 1, edge.key)
                mixed = mixed + (read if share is None else share * read)
            return mixed

        found = [residual(self.graph.n_layers, output) for output in self.graph.outputs]
        return [jnp.broadcast_to(x, shape) for x in found]


def on_tpu(readout: Readout, table, given, lists, *, interpret: bool = False):
    """Mean cross-entropy [] and its gradient in (table [M, W], K given scores [B]) for lists [B, n].

    Lists lie along the lanes, so that every number of a list is a row.
    """
    table_shape, given_shape = table.shape, (len(readout.given), None)
    losses, d_table, *d_given = _tpu_call(
        _tpu_gradient, readout, table, given, lists, [(1, None), table_shape, given_shape], interpret
    )
    d_given = tuple(row for rows in d_given for row in rows)
    return readout.weight * losses.sum(), (d_table, d_given)


def judge_on_tpu(readout: Readout, table, given, lists, *, interpret: bool = False):
    """Cross-entropy of every output [B, n], and whether it is right: bool [B, n]."""
    n = readout.graph.list_len
    found = _tpu_call(_tpu_judgement, readout, table, given, lists, [(n, None), (n, None)], interpret)
    losses, right = (x.T for x in found)
    return losses, right > 0


def _tpu_call(kernel, readout: Readout, table, given, lists, shapes, interpret: bool) -> list[jax.Array]:
    """Runs a kernel over blocks of lists; of shapes with None there a part is made by each block, others are
    added up. Empty ones are left out."""
    size = min(TPU_LISTS, -(-readout.n_lists // TILE) * TILE)
    n_blocks = -(-readout.n_lists // size)
    vectors = [_rows(x, n_blocks * size) for x in (given, tuple(lists.T)) if x]
    shapes = [shape for shape in shapes if shape[0]]

    def spec(shape):
        if shape[1] is None:
            return pl.BlockSpec((shape[0], size), lambda block: (0, block))
        return pl.BlockSpec(shape, lambda block: (0, 0))

    found = pl.pallas_call(
        functools.partial(kernel, readout),
        grid=(n_blocks,),
        in_specs=[spec(table.shape), *(spec((len(x), None)) for x in vectors)],
        out_specs=[spec(shape) for shape in shapes],
        out_shape=[
            jax.ShapeDtypeStruct((rows, columns or n_blocks * size), jnp.float32) for rows, columns in shapes
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(table, *vectors)
    return [x if columns else x[:, : readout.n_lists] for x, (_, columns) in zip(found, shapes, strict=True)]


def _rows(vectors, length: int):
    """K vectors [B] as an array [K, length]. Put end to end first, so that `vmap` leads with its axis."""
    vectors = [jnp.pad(vector, (0, length - len(vector))) for vector in vectors]
    return jnp.concatenate(vectors).reshape(-1, length)


@dataclasses.dataclass(frozen=True)
class _TpuBlock:
    """What a block of lists looks up in the table.

    Attributes:
      digit: per position the digits [1, b].
      column: the number of each column [W, b].
      chosen: per digit position the rows of the lists, as ones in [M, b].
      shared_chosen: the rows of every other source, as ones in its lane of [M, TILE].
      writes: per source what it writes, [W, b] or [W, 1].
      scores: in the order of `Readout.scores`, [1, b] or [1, 1].
    """

    digit: list
    column: jax.Array
    chosen: list
    shared_chosen: jax.Array
    writes: list
    scores: list


def _tpu_block(readout: Readout, table_ref, given_ref, lists_ref) -> _TpuBlock:
    n, n_sources = readout.graph.list_len, len(readout.tokens)
    (n_rows, width), size = table_ref.shape, lists_ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, size), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (width, size), 0)
    table = _parts(table_ref[...].T)  # [W, M]

    digit = [lists_ref[i : i + 1, :] for i in range(n)]
    chosen = [_exact((row == digit[i]) | (row == readout.positions[i])) for i in range(n)]  # [M, size]
    writes = [_product(table, x) for x in chosen]  # [W, size]
    lane, row_ = (jax.lax.broadcasted_iota(jnp.int32, (n_rows, TILE), axis) for axis in (1, 0))
    shared_chosen = [  # every other source has a lane
        (lane == s) & ((row_ == readout.tokens[s]) | (row_ == readout.positions[s]))
        for s in range(n, n_sources)
    ]
    shared_chosen = _exact(functools.reduce(jnp.logical_or, shared_chosen))  # [M, TILE]
    shared = _product(table, shared_chosen)  # [W, TILE]
    writes += [shared[:, s : s + 1] for s in range(n, n_sources)]

    def score(layer, query, key):
        if (edge := (layer, query, key)) in readout.given:
            k = readout.given.index(edge)
            return given_ref[k : k + 1, :]
        c = readout.column(layer, query)
        return writes[key][c : c + 1, :]

    scores = [score(*edge) for edge in readout.scores]
    return _TpuBlock(digit, column, chosen, shared_chosen, writes, scores)


def _tpu_judgement(readout: Readout, table_ref, *refs):
    *given_ref, lists_ref, losses_ref, right_ref = refs
    block = _tpu_block(readout, table_ref, *given_ref or [None], lists_ref)
    weights = readout.weights(block.scores, (1, lists_ref.shape[1]))
    logits = readout.logits(block.column.shape, weights, block.writes)
    for i, (x, target) in enumerate(zip(logits, block.digit, strict=True)):
        x, loss, _, of_target = _tpu_softmax(readout, block, x, target)
        losses_ref[i : i + 1, :] = loss
        # As `metrics.is_correct`: the first of equals is the answer, and a NaN is a miss.
        is_later, is_target = block.column > target, block.column == target
        beaten = (x < of_target) | ((x == of_target) & is_later) | is_target
        right_ref[i : i + 1, :] = jnp.where(beaten, 1.0, 0.0).min(0, keepdims=True)


def _tpu_softmax(readout: Readout, block: _TpuBlock, logits, target):
    """Of an output's columns [W, b]: logits, loss [1, b], softmax, and the logit of the target [1, b]."""
    logits = jnp.where(block.column < readout.n_tokens, logits, IMPOSSIBLE)
    top = logits.max(0, keepdims=True)
    exponentials = jnp.exp(logits - top)
    total = exponentials.sum(0, keepdims=True)
    of_target = jnp.where(block.column == target, logits, 0.0).sum(0, keepdims=True)
    return logits, jnp.log(total) + top - of_target, exponentials / total, of_target


def _tpu_gradient(readout: Readout, table_ref, *refs):
    n, n_sources = readout.graph.list_len, len(readout.tokens)
    given_ref, d_given_ref = (refs[0], refs[-1]) if readout.given else (None, None)
    lists_ref, losses_ref, d_table_ref = refs[len(readout.given) > 0 :][:3]
    (n_rows, width), size = table_ref.shape, lists_ref.shape[1]
    block = _tpu_block(readout, table_ref, given_ref, lists_ref)
    column = block.column
    place = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1) + pl.program_id(0) * size
    inside = place < readout.n_lists
    weights, pull_weights = jax.vjp(lambda *x: readout.weights(x, (1, size)), *block.scores)
    logits, pull_logits = jax.vjp(functools.partial(readout.logits, column.shape), weights, block.writes)
    losses, slopes, weight = 0.0, [], jnp.where(inside, readout.weight, 0.0)
    for x, target in zip(logits, block.digit, strict=True):
        _, loss, share, _ = _tpu_softmax(readout, block, x, target)
        losses += loss
        slopes.append(weight * (share - jnp.where(column == target, 1.0, 0.0)))
    losses_ref[...] = jnp.where(inside, losses, 0.0)
    d_weights, pulls = pull_logits(slopes)

    lane, column_ = (jax.lax.broadcasted_iota(jnp.int32, (width, TILE), axis) for axis in (1, 0))
    d_shared = jnp.zeros((width, TILE), jnp.float32)
    for s in range(n, n_sources):
        d_shared += jnp.where(lane == s, pulls[s], 0.0)
    for (layer, query, key), d_score in zip(readout.scores, pull_weights(d_weights), strict=True):
        if (edge := (layer, query, key)) in readout.given:
            k = readout.given.index(edge)
            d_given_ref[k : k + 1, :] = d_score
        elif key < n:
            pulls[key] = jnp.where(column == readout.column(layer, query), d_score, pulls[key])
        else:
            d_shared += jnp.where((column_ == readout.column(layer, query)) & (lane == key), d_score, 0.0)
    d_table = jnp.zeros((n_rows, width), jnp.float32)
    for x, pull in ((block.shared_chosen, d_shared), *zip(block.chosen, pulls[:n], strict=True)):
        for part in reversed(_parts(pull)):
            d_table += _dot(x, part, 1, 1)

    @pl.when(pl.program_id(0) == 0)
    def _():
        d_table_ref[...] = jnp.zeros_like(d_table)

    d_table_ref[...] += d_table


def on_gpu(readout: Readout, table, given, lists, *, interpret: bool = False):
    """As `on_tpu`, for a table of 128 rows and columns at most and no given scores.

    Columns of the table that are neither logits nor scores must be zero; their gradient means nothing.

    The first kernel finds every list's attention, and what the softmax of each output adds up to; the
    second sums what lists pull on the table. Each forms the logits of a few lists at a time. Without the
    gradient of the table, the first keeps little, and many of its programs share a processor.
    """
    n_lists, n_digits = readout.n_lists, readout.graph.list_len
    table = table / LN_2  # for powers of two instead of e
    padding = 0, -n_lists % GPU_LISTS
    lists = [jnp.pad(x, padding) for x in lists.T]
    size = n_lists + padding[1]
    n_parts, n_shared = size // GPU_LISTS, len(readout.tokens) - n_digits
    n_weights, n_scores = sum(readout.choices.values()), len(readout.scores)
    of_lists = pl.BlockSpec((GPU_LISTS,), lambda part: (part,))
    of_part = [
        pl.BlockSpec((None, 1), lambda part: (part, 0)),
        pl.BlockSpec((None, n_shared, table.shape[1]), lambda part: (part, 0, 0)),
        pl.BlockSpec((None, max(1, n_scores)), lambda part: (part, 0)),
    ]
    n_vectors = 2 * n_weights + 2 * n_digits + n_scores
    losses, d_shared, d_shared_scores, *vectors = pl.pallas_call(
        functools.partial(_gpu_lists, readout, (lambda: None) if interpret else _triton().debug_barrier),
        grid=(n_parts,),
        in_specs=[pl.BlockSpec(table.shape, lambda part: (0, 0)), *[of_lists] * n_digits],
        out_specs=[*of_part, *[of_lists] * n_vectors],
        out_shape=[jax.ShapeDtypeStruct((n_parts, *spec.block_shape[1:]), jnp.float32) for spec in of_part]
        + [jax.ShapeDtypeStruct((size,), jnp.float32)] * n_vectors,
        compiler_params=_triton().CompilerParams(num_warps=LISTS_WARPS, num_stages=1),
        interpret=interpret,
    )(table, *lists)
    weights, _, tops, totals, d_scores = _split(vectors, n_weights, n_weights, n_digits, n_digits, n_scores)
    d_table = pl.pallas_call(
        functools.partial(_gpu_table, readout),
        grid=(table.shape[1] // TABLE_COLUMNS + 1,),
        out_shape=jax.ShapeDtypeStruct(table.shape, jnp.float32),
        compiler_params=_triton().CompilerParams(num_warps=TABLE_WARPS, num_stages=1),
        interpret=interpret,
    )(table, *lists, *weights, *tops, *totals, *d_scores, d_shared, d_shared_scores)
    return LN_2 * losses.sum(), (d_table, given)


def _triton():
    """Pallas for GPUs, imported when it is needed: JAX means to replace it."""
    from jax.experimental.pallas import triton

    return triton


def _split(values, *numbers: int) -> list[list]:
    values = list(values)
    return [[values.pop(0) for _ in range(number)] for number in numbers]


def _gpu_lists(readout: Readout, barrier, table_ref, *refs):
    """Of a part of the lists: attention, what the softmax adds up to, loss, and what pulls on scores."""
    n, n_weights, n_scores = readout.graph.list_len, sum(readout.choices.values()), len(readout.scores)
    (
        lists_ref,
        (loss_ref, d_shared_ref, d_shared_scores_ref),
        weights_ref,
        d_weights_ref,
        tops_ref,
        totals_ref,
        d_scores_ref,
    ) = _split(refs, n, 3, n_weights, n_weights, n, n, n_scores)
    digit = [ref[...] for ref in lists_ref]
    sources = range(len(readout.tokens))
    first = pl.program_id(0) * GPU_LISTS
    place = first + jax.lax.broadcasted_iota(jnp.int32, (GPU_LISTS,), 0)
    weight = jnp.where(place < readout.n_lists, readout.weight, 0.0)
    scores = [
        LN_2 * _writes(readout, table_ref, key, readout.column(layer, query), digit)
        for layer, query, key in readout.scores
    ]
    weights, pull_weights = jax.vjp(lambda *x: readout.weights(x, (GPU_LISTS,)), *scores)
    own = [[_writes(readout, table_ref, s, d, digit) for s in sources] for d in digit]
    own = [readout.logits((GPU_LISTS,), weights, x) for x in own]  # [of the digit][output]
    tops = [functools.reduce(jnp.maximum, x) for x in zip(*own, strict=True)]  # as in `model.readout`
    for ref, value in zip((*weights_ref, *tops_ref), (*jax.tree.leaves(weights), *tops), strict=True):
        ref[...] = value
    barrier()

    structure = jax.tree.structure(weights)
    shape = LISTS_TILE, table_ref.shape[1]
    column = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    shared = [_writes(readout, table_ref, s, slice(None), None) for s in sources[n:]]
    is_logit = jax.lax.broadcasted_iota(jnp.int32, shape[1:], 0) < readout.n_tokens
    # Every output adds its own vector once, and with it rules out the columns that are no logits.
    shared = [jnp.broadcast_to(jnp.where(is_logit, x, IMPOSSIBLE), shape) for x in shared]

    def one_tile(tile, d_shared):
        lists = pl.ds(tile * LISTS_TILE, LISTS_TILE)
        digit = [ref[lists] for ref in lists_ref]
        place = first + tile * LISTS_TILE + jax.lax.broadcasted_iota(jnp.int32, (LISTS_TILE, 1), 0)
        weight = jnp.where(place < readout.n_lists, readout.weight, 0.0)
        writes = [*(_writes(readout, table_ref, i, slice(None), digit) for i in range(n)), *shared]
        weights = jax.tree.unflatten(structure, [_column(ref[lists]) for ref in weights_ref])
        logits, pull_logits = jax.vjp(functools.partial(readout.logits, shape), weights, writes)
        slopes = []
        for i, x in enumerate(logits):
            top = _column(tops_ref[i][lists])
            exponentials = jnp.exp2(jnp.minimum(x - top, GPU_HEADROOM))
            total = exponentials.sum(1, keepdims=True)
            totals_ref[i][lists] = total.sum(1)
            is_target = column == _column(digit[i])
            slopes.append(exponentials * (weight / total) - jnp.where(is_target, weight, 0.0))
        d_weights, pulls = pull_logits(slopes)
        for ref, x in zip(d_weights_ref, jax.tree.leaves(d_weights), strict=True):
            ref[lists] = LN_2 * x.sum(1)
        return tuple(d + x for d, x in zip(d_shared, pulls[n:], strict=True))

    zeros = tuple(jnp.zeros(shape, jnp.float32) for _ in shared)
    d_shared = jax.lax.fori_loop(0, GPU_LISTS // LISTS_TILE, one_tile, zeros)
    for i, x in enumerate(d_shared):
        d_shared_ref[i, :] = x.sum(0)
    barrier()

    losses = sum(jnp.log2(ref[...]) + tops[i] - own[i][i] for i, ref in enumerate(totals_ref))
    loss_ref[0] = (losses * weight).sum()
    d_scores = pull_weights(jax.tree.unflatten(structure, [ref[...] for ref in d_weights_ref]))
    for i, (ref, x) in enumerate(zip(d_scores_ref, d_scores, strict=True)):
        ref[...] = jnp.broadcast_to(x, (GPU_LISTS,))
        d_shared_scores_ref[i] = x if x.ndim == 0 else jnp.float32(0)


def _gpu_table(readout: Readout, table_ref, *refs):
    """What all lists pull on some columns of the table; the last program sums what they pull on scores."""
    n, n_weights, n_scores = readout.graph.list_len, sum(readout.choices.values()), len(readout.scores)
    (
        lists_ref,
        weights_ref,
        tops_ref,
        totals_ref,
        d_scores_ref,
        (d_shared_ref, d_shared_scores_ref, d_table_ref),
    ) = _split(refs, n, n_weights, n, n, n_scores, 3)
    sources = range(len(readout.tokens))
    n_rows, width = table_ref.shape
    program = pl.program_id(0)

    @pl.when(program < width // TABLE_COLUMNS)
    def _():
        columns = pl.ds(program * TABLE_COLUMNS, TABLE_COLUMNS)
        structure = jax.tree.structure({at: [0] * number for at, number in readout.choices.items()})
        shape = TABLE_TILE, TABLE_COLUMNS
        row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, TABLE_TILE), 0)
        column = program * TABLE_COLUMNS + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        shared = [_writes(readout, table_ref, s, columns, None)[None] for s in sources[n:]]

        def one_tile(tile, d_table):
            lists = pl.ds(tile * TABLE_TILE, TABLE_TILE)
            digit = [ref[lists] for ref in lists_ref]
            place = tile * TABLE_TILE + jax.lax.broadcasted_iota(jnp.int32, (TABLE_TILE, 1), 0)
            weight = jnp.where(place < readout.n_lists, readout.weight, 0.0)
            weights = jax.tree.unflatten(structure, [_column(ref[lists]) for ref in weights_ref])
            writes = [_writes(readout, table_ref, i, columns, digit) for i in range(n)]
            logits, pull_logits = jax.vjp(lambda *x: readout.logits(shape, weights, [*x, *shared]), *writes)
            slopes = []
            for i, x in enumerate(logits):
                x = jnp.minimum(x - _column(tops_ref[i][lists]), GPU_HEADROOM)
                shares = jnp.exp2(x) * (weight / _column(totals_ref[i][lists]))
                slopes.append(shares - jnp.where(column == _column(digit[i]), weight, 0.0))
            for i, pulls in enumerate(pull_logits(slopes)):
                d_table = _add_rows(d_table, row, digit[i], readout.positions[i], pulls)
            return d_table

        n_tiles = -(-readout.n_lists // TABLE_TILE)
        d_table = jnp.zeros((n_rows, TABLE_COLUMNS), jnp.float32)
        d_table = jax.lax.fori_loop(0, n_tiles, one_tile, d_table)
        row, column = (jax.lax.broadcasted_iota(jnp.int32, d_table.shape, axis) for axis in (0, 1))
        for i, s in enumerate(sources[n:]):
            pulls = sum(d_shared_ref[part, i, columns] for part in range(d_shared_ref.shape[0]))
            d_table += jnp.where(_is_row_of(readout, s, row), pulls[None], 0.0)
        column += program * TABLE_COLUMNS - readout.n_tokens
        is_score = (column >= 0) & (column < readout.n_score_columns)
        _triton().store(d_table_ref.at[:, columns], d_table, mask=~is_score)

    @pl.when(program == width // TABLE_COLUMNS)
    def _():
        n_columns = readout.n_score_columns
        row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, SCORES_TILE), 0)
        column = jax.lax.broadcasted_iota(jnp.int32, (SCORES_TILE, n_columns), 1) + readout.n_tokens

        def one_tile(tile, d_scores):
            lists = pl.ds(tile * SCORES_TILE, SCORES_TILE)
            for i in range(n):
                pulls = jnp.zeros(column.shape, jnp.float32)
                for ref, (layer, query, key) in zip(d_scores_ref, readout.scores, strict=True):
                    if key == i:
                        here = column == readout.column(layer, query)
                        pulls = jnp.where(here, _column(ref[lists]), pulls)
                d_scores = _add_rows(d_scores, row, lists_ref[i][lists], readout.positions[i], pulls)
            return d_scores

        n_tiles = lists_ref[0].shape[0] // SCORES_TILE
        d_scores = jnp.zeros((n_rows, n_columns), jnp.float32)
        d_scores = jax.lax.fori_loop(0, n_tiles, one_tile, d_scores)
        row, column = (jax.lax.broadcasted_iota(jnp.int32, d_scores.shape, axis) for axis in (0, 1))
        for i, (layer, query, key) in enumerate(readout.scores):
            if key >= n:
                pulls = sum(d_shared_scores_ref[part, i] for part in range(d_shared_ref.shape[0]))
                here = _is_row_of(readout, key, row) & (
                    column + readout.n_tokens == readout.column(layer, query)
                )
                d_scores += jnp.where(here, pulls, 0.0)
        d_table_ref[:, pl.ds(readout.n_tokens, n_columns)] = d_scores


def _is_row_of(readout: Readout, source: int, row):
    return (row == readout.tokens[source]) | (row == readout.positions[source])


def _writes(readout: Readout, table_ref, source: int, columns, digit):
    """What a source writes to some columns: [...] for SEP and the outputs, [b, ...] for digits [b]."""
    token = digit[source] if readout.tokens[source] is None else readout.tokens[source]
    of_position, of_token = table_ref[readout.positions[source], columns], table_ref[token, columns]
    return of_token + (of_position[None] if of_token.ndim > of_position.ndim else of_position)


def _add_rows(total, row, digit, position, pulls):
    """`total` [M, W] with the pulls [b, W] of lists added to the rows of their digit and position."""
    chosen = _exact((row == digit[None, :]) | (row == position))  # [M, b]
    for part in reversed(_truncated(pulls)):
        total += _dot(chosen, part, 1, 0)
    return total


def _truncated(x):
    """As `_parts`, by cutting bits off, which takes a GPU less than rounding."""
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        parts.append(jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16))
        x = x - jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return parts


def take(lists, places, *, interpret: bool = False):
    """`lists[places]` on a TPU, lists [M, n] of whole numbers below 2**16, M up to MOST_TAKEN; [B, n].

    A place is a row and a lane of a table, and a product with zeros and ones finds the row.
    """
    n_lists, n = lists.shape
    length = len(places)
    size = min(4 * TPU_LISTS, -(-length // TILE) * TILE)
    n_blocks = -(-length // size)
    table = jnp.pad(lists, ((0, -n_lists % (16 * TILE)), (0, 0))).T.reshape(n, -1, TILE).mT  # [n, TILE, rows]
    table = jnp.stack([table % 256, table // 256]).astype(jnp.bfloat16)  # bytes are exact
    taken = pl.pallas_call(
        _take_kernel,
        grid=(n_blocks,),
        in_specs=[
            pl.BlockSpec(table.shape, lambda block: (0, 0, 0, 0)),
            pl.BlockSpec((1, size), lambda i: (0, i)),
        ],
        out_specs=pl.BlockSpec((n, size), lambda block: (0, block)),
        out_shape=jax.ShapeDtypeStruct((n, n_blocks * size), jnp.int32),
        interpret=interpret,
    )(table, jnp.pad(places, (0, n_blocks * size - length))[None])
    return taken[:, :length].T


def _take_kernel(table_ref, places_ref, taken_ref):
    n_rows, size = table_ref.shape[-1], places_ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, size), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (TILE, size), 0)
    chosen = _exact(row == places_ref[...] >> 7)  # TILE is 128
    is_lane = lane == places_ref[...] & (TILE - 1)
    for i in range(taken_ref.shape[0]):
        low, high = (_dot(table_ref[byte, i], chosen, 1, 0) for byte in (0, 1))
        found = jnp.where(is_lane, low + 256.0 * high, 0.0).sum(0, keepdims=True)
        taken_ref[i : i + 1, :] = found.astype(jnp.int32)


def _column(vector):
    return vector[:, None]


def _parts(x):
    """Three bfloat16 arrays whose sum is x, the largest first."""
    parts = []
    for _ in range(3):
        part = x.astype(jnp.bfloat16)
        parts.append(part)
        x = x - part.astype(jnp.float32)
    return parts


def _exact(mask):
    """Zeros and ones in bfloat16."""
    return jnp.where(mask, 1.0, 0.0).astype(jnp.bfloat16)


def _product(parts, x):
    """The product of a float32 matrix in parts with zeros and ones."""
    return sum(_dot(part, x, 1, 0) for part in reversed(parts))


def _dot(a, b, axis_a: int, axis_b: int):
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)
