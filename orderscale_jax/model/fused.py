"""The scale form for accelerators: a few large products, and no batch of logits in memory.

It is the loss of `scales` in another order of operations. The vectors of all tokens and positions stand
in one table, and one product gives what they write to the logits and how they score as keys. All that is
done list by list is left to a kernel (`kernels`), which gives the loss and its gradient in one pass.

Dimensions: B lists, n digits and outputs, N digits, D model, M rows, W columns, V vocabulary.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.model import kernels, metrics, scales
from orderscale_jax.model.config import ModelConfig
from orderscale_jax.model.kernels import TILE, Readout
from orderscale_jax.model.numerics import einsum, matmul
from orderscale_jax.model.scales import Mixing, check_plain, is_faster
from orderscale_jax.model.transformer import ListTransformer, bind, init_params

KERNELS = {"gpu": kernels.on_gpu, "tpu": kernels.on_tpu}
LARGEST = {"gpu": TILE, "tpu": 4 * TILE}  # rows and columns of a table that fits on the chip
AGREEMENT = 1e-4  # of a loss, and of gradients with the largest of them
DEEPEST = 4  # layers for which a TPU's compiler finds room on the chip; one less with a larger table


def applies(config: ModelConfig, kernel: str) -> bool:
    """Whether a kernel of `KERNELS` can train this model, and moves fewer bytes than `scales`.

    On a GPU it moves more where digits ask too, as from three layers on, because their scores for each
    other are looked up before: compiled for an H100 33 MB a step and run, without the kernel 25 MB.
    """
    if not is_faster(config):
        return False
    readout = _readout(config, 1)
    if kernel == "gpu" and readout.given:
        return False
    size = max(config.d_vocab + readout.n_score_columns, config.d_vocab + config.n_positions)
    if kernel == "tpu" and config.n_layers > (DEEPEST if size <= TILE else DEEPEST - 1):
        return False
    return size <= LARGEST[kernel]


def loss(model: ListTransformer, lists, kernel: str, interpret: bool = False) -> jax.Array:
    """Mean cross-entropy over lists [B, n] and outputs, equal to `scales.loss` up to rounding.

    With `interpret` it runs anywhere, slowly.

    Raises:
      UserError: `kernel` is none of `KERNELS`, or does not train this model.
    """
    if kernel not in KERNELS:
        raise UserError(f"there is no kernel {kernel!r}; there are {', '.join(KERNELS)}")
    check_plain(model.config)
    if not applies(model.config, kernel):
        raise UserError(f"the kernel {kernel!r} does not train {model.config}: use `scales.loss`")
    readout, table, given, lists = _tables(model, lists)
    return _read(readout, kernel, interpret, table, given, lists)


def try_out(kernel: str, device: jax.Device):
    """Runs a kernel on a device and compares it with what every device can.

    Raises:
      ArithmeticError: it computes something else there.
      Exception: it does not compile; compilers fail in many ways.
    """
    config = ModelConfig(d_model=8, n_digits=20)
    with jax.default_device(device):
        lists = jax.random.randint(jax.random.key(1), (300, 2), 0, config.n_digits)
        params = init_params(config, jax.random.key(0))
        usual, ours = (
            jax.jit(jax.value_and_grad(lambda params, f=f: f(bind(config, params))))(params)
            for f in (lambda model: scales.loss(model, lists), lambda model: loss(model, lists, kernel))
        )
        pairs = list(zip(*map(jax.tree.leaves, (usual, ours)), strict=True))
        if kernel == "tpu":
            model = bind(config, params)
            logits = scales.logits(model, lists)
            pairs.append((metrics.token_losses(logits, lists), judge(model, lists)[0]))
            pairs.append((lists[::-1], kernels.take(lists, jnp.arange(len(lists))[::-1])))
        scale = max(jnp.abs(x).max() for x in jax.tree.leaves(usual[1]))
        if not all(jnp.allclose(x, y, rtol=AGREEMENT, atol=AGREEMENT * scale) for x, y in pairs):
            raise ArithmeticError("it does not compute what it should")


def judge(model: ListTransformer, lists, interpret: bool = False) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of every output [B, n], and whether it is right (bool), by the kernel for TPUs."""
    check_plain(model.config)
    return kernels.judge_on_tpu(*_tables(model, lists), interpret=interpret)


def _tables(model: ListTransformer, lists):
    """What a kernel needs: the readout, its table [M, W], the scores that it is given, and lists [B, n]."""
    config, lists = model.config, model.config.check_lists(lists)
    readout = _readout(config, len(lists))
    padding = -(config.d_vocab + config.n_positions) % TILE
    vectors = jnp.concatenate(  # [M, D]
        [model.embed.W_E[...], model.pos_embed.W_pos[...], jnp.zeros((padding, config.d_model))]
    )
    queries = [_query(model, layer, _of_source(readout, vectors.T, s)) for layer, s in readout.queries]
    padding = -(config.d_vocab + readout.n_score_columns) % TILE + readout.n_score_columns - len(queries)
    columns = jnp.concatenate(  # [D, W]
        [model.unembed.W_U[...], *[q[:, None] for q in queries], jnp.zeros((config.d_model, padding))], axis=1
    )
    given = tuple(_between_digits(model, readout, vectors, lists, *edge) for edge in readout.given)
    return readout, matmul(vectors, columns), given, lists


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _read(readout, kernel, interpret, table, given, lists):
    return _forward(readout, kernel, interpret, table, given, lists)[0]


def _forward(readout, kernel, interpret, table, given, lists):
    return KERNELS[kernel](readout, table, given, lists, interpret=interpret)


def _backward(readout, kernel, interpret, gradients, upstream):
    return (*jax.tree.map(lambda gradient: upstream * gradient, gradients), None)


_read.defvjp(_forward, _backward)


@functools.cache
def _readout(config: ModelConfig, n_lists: int) -> Readout:
    n, scores = config.list_len, []

    @functools.cache
    def score(*edge):
        scores.append(edge)
        return jnp.zeros(())

    def ask():
        mixing = Mixing(config.graph, score)
        for output in config.graph.outputs:
            mixing.final(output)

    jax.eval_shape(ask)
    return Readout(
        n_lists=n_lists,
        n_tokens=config.d_vocab,
        graph=config.graph,
        tokens=(*[None] * n, config.sep_token, *[config.mask_token] * n),
        positions=tuple(config.d_vocab + position for position in range(config.n_positions)),
        queries=tuple(dict.fromkeys((layer, query) for layer, query, _ in scores if query >= n)),
        scores=tuple(scores),
    )


def _query(model: ListTransformer, layer: int, vector):
    """x W_Q W_K' / sqrt(d) for x [..., D]: what a key is compared with."""
    attn = model.blocks[layer].attn
    query = matmul(vector, attn.W_Q[0]) / np.sqrt(model.config.d_head)
    return einsum("...c,dc->...d", query, attn.W_K[0])


def _of_source(readout: Readout, table, source: int, n_digits: int = 0):
    """What a table [..., M] says of a source: [..., N] for each digit that it may be, else [...]."""
    of_position = table[..., readout.positions[source]]
    token = readout.tokens[source]
    if token is None:
        return table[..., :n_digits] + of_position[..., None]
    return table[..., token] + of_position


def _between_digits(model, readout: Readout, vectors, lists, layer: int, query: int, key: int):
    """Scores [B] of a digit's query for a key.

    They are looked up by comparisons and products with zeros and ones, forwards and backwards, because
    gathering single numbers is slow on TPUs.
    """
    n_digits = model.config.n_digits
    queries = _query(model, layer, _of_source(readout, vectors.T, query, n_digits).T)  # [N, D]
    scores = einsum("nd,md->nm", queries, vectors)
    scores = _of_source(readout, scores, key, n_digits)  # [N] or [N, N]
    if scores.ndim == 2:
        scores = matmul(jax.nn.one_hot(lists[:, query], n_digits), scores)  # [B, N]
    last = lists[:, key if readout.tokens[key] is None else query, None]
    return jnp.where(last == jnp.arange(n_digits), scores, 0.0).sum(-1)
