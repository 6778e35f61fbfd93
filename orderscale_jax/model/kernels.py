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

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

from orderscale_jax.graph import Graph
from orderscale_jax.model.scales import IMPOSSIBLE, Mixing

TILE = 128  # rows and columns come in multiples of it
TPU_LISTS, GPU_LISTS = 512, 32  # a block of lists
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
      terms: per output the pairs (source, scale): a float, or an int that counts the varying ones.
    """

    n_lists: int
    n_tokens: int
    graph: Graph
    tokens: tuple[int | None, ...]
    positions: tuple[int, ...]
    queries: tuple[tuple[int, int], ...]
    scores: tuple[tuple[int, int, int], ...]
    terms: tuple[tuple[tuple[int, float | int], ...], ...]

    @property
    def n_digits(self) -> int:
        return len(self.terms)

    @property
    def weight(self) -> float:
        """Of one output of one list in the loss."""
        return 1.0 / (self.n_lists * self.n_digits)

    @property
    def given(self) -> tuple[tuple[int, int, int], ...]:
        """The scores that are not in the table: those of digits that ask."""
        return tuple(edge for edge in self.scores if self.tokens[edge[1]] is None)

    def column(self, layer: int, query: int) -> int:
        return self.n_tokens + self.queries.index((layer, query))

    def scales(self, scores, shape) -> list[jax.Array]:
        """The varying scales, each of `shape`, from the scores in their order."""
        of_edge = dict(zip(self.scores, scores, strict=True))
        residuals = Mixing(self.graph, lambda *edge: of_edge[edge])
        found = (residuals.final(output).values() for output in self.graph.outputs)
        return [jnp.broadcast_to(c, shape) for scales in found for c in scales if not isinstance(c, float)]


def on_tpu(readout: Readout, table, given, lists, *, interpret: bool = False):
    """Mean cross-entropy [] and its gradient in (table [M, W], K given scores [B]) for lists [B, n].

    Lists lie along the lanes, so that every number of a list is a row.
    """
    size = min(TPU_LISTS, -(-readout.n_lists // TILE) * TILE)
    n_blocks = -(-readout.n_lists // size)
    whole = pl.BlockSpec(table.shape, lambda block: (0, 0))
    vectors = [_rows(x, n_blocks * size) for x in (given, tuple(lists.T)) if x]
    of_vectors = [pl.BlockSpec((len(x), size), lambda block: (0, block)) for x in vectors]
    n_given = len(vectors) - 1
    shapes = [(1, n_blocks * size), table.shape, *(x.shape for x in vectors[:n_given])]
    losses, d_table, *d_given = pl.pallas_call(
        functools.partial(_tpu_kernel, readout),
        grid=(n_blocks,),
        in_specs=[whole, *of_vectors],
        out_specs=[pl.BlockSpec((1, size), lambda block: (0, block)), whole, *of_vectors[:n_given]],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(table, *vectors)
    d_given = tuple(row for rows in d_given for row in rows[:, : readout.n_lists])
    return losses.sum(), (d_table, d_given)


def _rows(vectors, length: int):
    """K vectors [B] as an array [K, length]. Put end to end first, so that `vmap` leads with its axis."""
    vectors = [jnp.pad(vector, (0, length - len(vector))) for vector in vectors]
    return jnp.concatenate(vectors).reshape(-1, length)


def _tpu_kernel(readout: Readout, table_ref, *refs):
    n, n_sources = readout.n_digits, len(readout.tokens)
    given_ref, d_given_ref = (refs[0], refs[-1]) if readout.given else (None, None)
    lists_ref, losses_ref, d_table_ref = refs[len(readout.given) > 0 :][:3]
    (n_rows, width), size = table_ref.shape, lists_ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, size), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (width, size), 0)
    place = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1) + pl.program_id(0) * size
    weight = jnp.where(place < readout.n_lists, readout.weight, 0.0)
    table = _parts(table_ref[...].T)  # [W, M]

    digit = [lists_ref[i : i + 1, :] for i in range(n)]
    chosen = [_exact((row == digit[i]) | (row == readout.positions[i])) for i in range(n)]  # [M, size]
    writes = [_product(table, x) for x in chosen]  # [W, size]
    lane, row_ = (jax.lax.broadcasted_iota(jnp.int32, (n_rows, TILE), axis) for axis in (1, 0))
    shared_chosen = [  # every other source has a lane
        (lane == s) & ((row_ == readout.tokens[s]) | (row_ == readout.positions[s])) for s in range(n, n_sources)
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
    scales, pull_scales = jax.vjp(lambda *x: readout.scales(x, (1, size)), *scores)
    losses, pulls, d_scales = _outputs(readout, scales, writes, digit, column, weight, 0)

    lane, column_ = (jax.lax.broadcasted_iota(jnp.int32, (width, TILE), axis) for axis in (1, 0))
    d_shared = jnp.zeros((width, TILE), jnp.float32)
    for s in range(n, n_sources):
        d_shared += jnp.where(lane == s, pulls[s].sum(1, keepdims=True), 0.0)
    for (layer, query, key), d_score in zip(readout.scores, pull_scales(d_scales), strict=True):
        if (edge := (layer, query, key)) in readout.given:
            k = readout.given.index(edge)
            d_given_ref[k : k + 1, :] = d_score
        elif key < n:
            pulls[key] += jnp.where(column == readout.column(layer, query), d_score, 0.0)
        else:
            d_shared += jnp.where((column_ == readout.column(layer, query)) & (lane == key), d_score, 0.0)
    losses_ref[...] = losses
    d_table = jnp.zeros((n_rows, width), jnp.float32)
    for x, pull in ((shared_chosen, d_shared), *zip(chosen, pulls[:n], strict=True)):
        for part in reversed(_parts(pull)):
            d_table += _dot(x, part, 1, 1)

    @pl.when(pl.program_id(0) == 0)
    def _():
        d_table_ref[...] = jnp.zeros_like(d_table)

    d_table_ref[...] += d_table


def on_gpu(readout: Readout, table, given, lists, *, interpret: bool = False):
    """As `on_tpu`, for a table of 128 rows and columns at most.

    Every list is a row of the tile, and the rows that it looks up are read by their address.
    """
    n_blocks = -(-readout.n_lists // GPU_LISTS)
    padding = 0, n_blocks * GPU_LISTS - readout.n_lists
    given, lists = ([jnp.pad(x, padding) for x in vectors] for vectors in (given, lists.T))
    loss, d_table, *d_given = pl.pallas_call(
        functools.partial(_gpu_kernel, readout, n_blocks),
        out_shape=[
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((1,), table.shape, *(x.shape for x in given))
        ],
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=1),
        interpret=interpret,
    )(table, *given, *lists)
    return loss[0], (d_table, tuple(x[: readout.n_lists] for x in d_given))


def _gpu_kernel(readout: Readout, n_blocks: int, table_ref, *refs):
    n, n_given, size = readout.n_digits, len(readout.given), GPU_LISTS
    given_ref, lists_ref = refs[:n_given], refs[n_given : n_given + n]
    loss_ref, d_table_ref, *d_given_ref = refs[n_given + n :]
    n_rows, width = table_ref.shape
    shared = range(n, len(readout.tokens))
    row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, size), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (size, width), 1)
    row_, column_ = (jax.lax.broadcasted_iota(jnp.int32, (n_rows, width), axis) for axis in (0, 1))

    def writes_of(key, columns, digit):
        token = digit[key] if readout.tokens[key] is None else readout.tokens[key]
        of_position = table_ref[readout.positions[key], columns]
        of_token = table_ref[token, columns]
        return of_token + (of_position[None] if of_token.ndim > of_position.ndim else of_position)

    def one_block(block, carry):
        loss, d_table, d_shared, d_shared_scores = carry
        lists = pl.ds(block * size, size)
        place = block * size + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        weight = jnp.where(place < readout.n_lists, readout.weight, 0.0)
        digit = [ref[lists] for ref in lists_ref]
        writes = [writes_of(s, slice(None), digit) for s in range(len(readout.tokens))]
        writes = [x if x.ndim == 2 else x[None] for x in writes]  # [size, W] or [1, W]

        def score(layer, query, key):
            if (edge := (layer, query, key)) in readout.given:
                return given_ref[readout.given.index(edge)][lists]
            return writes_of(key, readout.column(layer, query), digit)

        scores = [score(*edge) for edge in readout.scores]
        scales, pull_scales = jax.vjp(lambda *x: readout.scales(x, (size,)), *scores)
        columns = [c[:, None] for c in scales]
        targets = [d[:, None] for d in digit]
        losses, pulls, d_scales = _outputs(readout, columns, writes, targets, column, weight, 1)
        d_shared = [d + pulls[s].sum(0) for s, d in zip(shared, d_shared, strict=True)]
        d_shared_scores = list(d_shared_scores)
        for i, d_score in enumerate(pull_scales([d.sum(1) for d in d_scales])):
            layer, query, key = edge = readout.scores[i]
            if edge in readout.given:
                d_given_ref[readout.given.index(edge)][lists] = d_score
            elif key < n:
                pulls[key] += jnp.where(column == readout.column(layer, query), d_score[:, None], 0.0)
            else:
                d_shared_scores[i] += d_score
        for i in range(n):
            chosen = _exact((row == digit[i][None, :]) | (row == readout.positions[i]))  # [M, size]
            for part in reversed(_parts(pulls[i])):
                d_table += _dot(chosen, part, 1, 0)
        return loss + losses.sum(), d_table, tuple(d_shared), tuple(d_shared_scores)

    zero = jnp.float32(0)
    zeros = (
        zero,
        jnp.zeros((n_rows, width), jnp.float32),
        tuple(jnp.zeros(width, jnp.float32) for _ in shared),
        tuple(zero for _ in readout.scores),
    )
    loss, d_table, d_shared, d_shared_scores = jax.lax.fori_loop(0, n_blocks, one_block, zeros)

    def of_source(source):
        return (row_ == readout.tokens[source]) | (row_ == readout.positions[source])

    for s, pull in zip(shared, d_shared, strict=True):
        d_table += jnp.where(of_source(s), pull[None], 0.0)
    for (layer, query, key), d_score in zip(readout.scores, d_shared_scores, strict=True):
        if query >= n and key >= n:
            here = of_source(key) & (column_ == readout.column(layer, query))
            d_table += jnp.where(here, d_score, 0.0)
    d_table_ref[...] = d_table
    loss_ref[0] = loss


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
        in_specs=[pl.BlockSpec(table.shape, lambda block: (0, 0, 0, 0)), pl.BlockSpec((1, size), lambda i: (0, i))],
        out_specs=pl.BlockSpec((n, size), lambda block: (0, block)),
        out_shape=jax.ShapeDtypeStruct((n, n_blocks * size), jnp.int32),
        interpret=interpret,
    )(table, jnp.pad(places, (0, n_blocks * size - length))[None])
    return taken[:, :length].T


def _take_kernel(table_ref, places_ref, taken_ref):
    n_rows, size = table_ref.shape[-1], places_ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (n_rows, size), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (TILE, size), 0)
    chosen = _exact(row == places_ref[...] // TILE)
    is_lane = lane == places_ref[...] % TILE
    for i in range(taken_ref.shape[0]):
        low, high = (_dot(table_ref[byte, i], chosen, 1, 0) for byte in (0, 1))
        found = jnp.where(is_lane, low + 256.0 * high, 0.0).sum(0, keepdims=True)
        taken_ref[i : i + 1, :] = found.astype(jnp.int32)


def _outputs(readout: Readout, scales, writes, digit, column, weight, axis: int):
    """Weighted losses, what they pull on each source's writes, and on each scale; columns along `axis`."""
    losses, d_scales = 0.0, []
    pulls = [jnp.zeros(column.shape, jnp.float32) for _ in writes]
    for output, terms in enumerate(readout.terms):
        scale = {s: c if isinstance(c, float) else scales[c] for s, c in terms}
        logits = sum(c * writes[s] for s, c in scale.items())
        logits = jnp.where(column < readout.n_tokens, logits, IMPOSSIBLE)
        top = logits.max(axis, keepdims=True)
        exponentials = jnp.exp(logits - top)
        total = exponentials.sum(axis, keepdims=True)
        is_target = column == digit[output]
        of_target = jnp.where(is_target, logits, 0.0).sum(axis, keepdims=True)
        losses += (jnp.log(total) + top - of_target) * weight
        slope = exponentials * (weight / total) - jnp.where(is_target, weight, 0.0)
        for s, c in terms:
            pulls[s] += scale[s] * slope
            if not isinstance(c, float):
                d_scales.append((slope * writes[s]).sum(axis, keepdims=True))
    return losses, pulls, d_scales


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
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32
    )
