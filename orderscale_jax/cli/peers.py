"""What the benchmark measures against: a plain port of the published model, masked T x T attention.

It does what the published code does: every position at every layer, all scores and then a mask,
multiplication by the frozen identities, one forward pass per ablated edge. In JAX, compiled as well
as it can be, and in PyTorch. Only one head and no variants.

Dimensions: B lists, T positions, D model, V vocabulary, L layers.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orderscale_jax.graph import Graph
from orderscale_jax.model import ModelConfig
from orderscale_jax.model.interventions import SMALLEST_ROW_SUM
from orderscale_jax.sae import SAEConfig
from orderscale_jax.task import tokens


def masks(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """What is added to scores, 0 or -inf, and what multiplies patterns; each [L, T, T]."""
    graph = Graph(config.list_len, config.n_layers)
    readable = np.stack([graph.readable(layer) for layer in range(config.n_layers)])
    carried = readable.copy()
    carried[0, list(graph.outputs)] = False
    return np.where(readable, 0.0, -np.inf).astype(np.float32), carried.astype(np.float32)


def forward(config: ModelConfig, arrays, token_ids, keep=None, renormalize=False):
    """Output logits [B, n, V] from arrays with published names and tokens [B, T].

    `keep` [L, T, T] multiplies the patterns, after which rows are rescaled if `renormalize`.
    """
    additive, carried = masks(config)
    identity = jnp.eye(config.d_model)
    x = arrays["embed.W_E"][token_ids] + arrays["pos_embed.W_pos"]
    for layer in range(config.n_layers):
        q = x @ arrays[f"blocks.{layer}.attn.W_Q"][0]
        k = x @ arrays[f"blocks.{layer}.attn.W_K"][0]
        scores = jnp.einsum("bqd,bkd->bqk", q, k) / np.sqrt(config.d_head)
        pattern = jax.nn.softmax(scores + additive[layer]) * carried[layer]
        if keep is not None:
            kept = pattern * keep[layer]
            total = jnp.maximum(kept.sum(-1, keepdims=True), SMALLEST_ROW_SUM)
            pattern = jnp.where(renormalize, kept / total, kept)
        x = x + (pattern @ (x @ identity)) @ identity
    return (x @ arrays["unembed.W_U"])[:, config.list_len + 1 :]


def train_jax(config: ModelConfig, arrays, lists, learning_rate=1e-3, weight_decay=0.01):
    """A compiled stretch of AdamW steps over lists [S, B, n]: call() -> ((arrays, state), losses [S])."""
    transform = optax.adamw(learning_rate, weight_decay=weight_decay)
    token_ids = jnp.asarray(np.stack([tokens(batch, config.n_digits) for batch in np.asarray(lists)]))

    def loss(arrays, token_ids):
        logits = forward(config, arrays, token_ids)
        targets = token_ids[:, : config.list_len]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    @jax.jit
    def stretch(arrays, state, token_ids):
        def step(carry, token_ids):
            arrays, state = carry
            value, gradient = jax.value_and_grad(loss)(arrays, token_ids)
            updates, state = transform.update(gradient, state, arrays)
            return (optax.apply_updates(arrays, updates), state), value

        return jax.lax.scan(step, (arrays, state), token_ids)

    state = transform.init(arrays)
    return lambda: jax.block_until_ready(stretch(arrays, state, token_ids))


def ablate_loop(config: ModelConfig, arrays, lists):
    """Every edge in both modes by one compiled dense forward each: call() -> accuracies [2, E]."""
    graph = Graph(config.list_len, config.n_layers)
    token_ids, targets = jnp.asarray(tokens(lists, config.n_digits)), jnp.asarray(lists)

    @jax.jit
    def accuracy(arrays, token_ids, targets, keep, renormalize):
        logits = forward(config, arrays, token_ids, keep, renormalize)
        return (logits.argmax(-1) == targets).mean()

    def loop():
        found = []
        for renormalize in (True, False):
            for edge in graph.edges:
                keep = np.ones((config.n_layers, graph.n_positions, graph.n_positions), np.float32)
                keep[edge] = 0.0
                found.append(float(accuracy(arrays, token_ids, targets, keep, renormalize)))
        return np.array(found).reshape(2, -1)

    return loop


def sets_loop(config: ModelConfig, arrays, lists, kept, at_once: int = 16):
    """Sets of live edges kept, bool [K, E], by a dense forward each, some side by side: call() -> [K]."""
    graph = Graph(config.list_len, config.n_layers)
    token_ids, targets = jnp.asarray(tokens(lists, config.n_digits)), jnp.asarray(lists)
    layers, queries, keys = np.array(graph.live_edges).T
    keeps = np.ones((len(kept), config.n_layers, graph.n_positions, graph.n_positions), np.float32)
    keeps[:, layers, queries, keys] = kept

    @jax.jit
    def accuracies(arrays, keeps):
        def one(keep):
            return (forward(config, arrays, token_ids, keep, True).argmax(-1) == targets).mean()

        return jax.lax.map(one, keeps, batch_size=at_once)

    return lambda: np.asarray(accuracies(arrays, keeps))


def train_torch(config: ModelConfig, arrays, lists, learning_rate=1e-3, weight_decay=0.01):
    """The same steps in PyTorch, eager as published: call() -> losses [S]; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    additive, carried = (torch.from_numpy(mask) for mask in masks(config))
    weights = {name: torch.tensor(np.asarray(array), requires_grad=True) for name, array in arrays.items()}
    identity = torch.eye(config.d_model)
    transform = torch.optim.AdamW(weights.values(), learning_rate, weight_decay=weight_decay)
    batches = [torch.from_numpy(tokens(batch, config.n_digits)).long() for batch in np.asarray(lists)]

    def logits(token_ids):
        x = weights["embed.W_E"][token_ids] + weights["pos_embed.W_pos"]
        for layer in range(config.n_layers):
            q = x @ weights[f"blocks.{layer}.attn.W_Q"][0]
            k = x @ weights[f"blocks.{layer}.attn.W_K"][0]
            scores = q @ k.transpose(1, 2) / config.d_head**0.5 + additive[layer]
            pattern = scores.softmax(-1) * carried[layer]
            x = x + (pattern @ (x @ identity)) @ identity
        return (x @ weights["unembed.W_U"])[:, config.list_len + 1 :]

    def stretch():
        losses = []
        for token_ids in batches:
            targets = token_ids[:, : config.list_len].reshape(-1)
            loss = torch.nn.functional.cross_entropy(logits(token_ids).flatten(0, 1), targets)
            transform.zero_grad()
            loss.backward()
            transform.step()
            losses.append(loss.item())
        return losses

    return stretch


def train_saes_torch(config: SAEConfig, inputs, n_steps: int, n_before: int):
    """Steps of the published library `dictionary-learning`, BatchTopK on inputs [M, D], after some that come
    before: call() -> None; None without it. Batches are ready beforehand, as its trainer gets them."""
    try:
        import torch
        from dictionary_learning.trainers import BatchTopKTrainer
    except ImportError:
        return None
    trainer = BatchTopKTrainer(
        steps=config.steps,
        activation_dim=inputs.shape[-1],
        dict_size=config.width,
        k=config.k,
        layer=0,
        lm_name="",
        lr=config.learning_rate,
        warmup_steps=config.warmup_steps,
        seed=0,
        device="cpu",
    )
    x = torch.tensor(np.asarray(inputs))
    batches = [x[torch.randperm(len(x))[: config.batch_size]] for _ in range(n_steps)]
    steps = itertools.count(n_before)

    def stretch():
        for batch in batches:
            trainer.update(next(steps), batch)

    for step, batch in zip(range(n_before), itertools.cycle(batches), strict=False):
        trainer.update(step, batch)
    return stretch
