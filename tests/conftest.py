"""What the tests of several rooms need."""

import gc
import importlib.metadata
import os
import tempfile

# The tests' programs are small and run briefly: compiling them as well as possible costs twice the time
# that it saves. What several tests, workers or subprocesses build anew is compiled once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):  # XLA ends at a flag it does not know
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="orderscale_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
gc.set_threshold(50_000)  # tracing makes very many objects, and to look through them so often takes a tenth

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from forks import FAST_STYLE, Forks

from orderscale_jax import figures
from orderscale_jax.config import TrainConfig
from orderscale_jax.model import ListTransformer, ModelConfig

OWN_STYLE = {name: figures.style.STYLE[name] for name in FAST_STYLE}
figures.style.STYLE.update(FAST_STYLE)

SMALL = {"d_model": 8, "n_digits": 5}
VARIANTS = {
    "plain": ModelConfig(**SMALL),
    "three layers": ModelConfig(**SMALL, n_layers=3, list_len=3),
    "biases": ModelConfig(**SMALL, bias=True),
    "layer norm": ModelConfig(**SMALL, layer_norm=True),
    "two heads": ModelConfig(**SMALL, n_heads=2),
    "block heads": ModelConfig(**SMALL, n_heads=2, frozen_heads="block"),
    "learned W_V": ModelConfig(**SMALL, n_heads=2, learn_wv=True),
    "learned W_O": ModelConfig(**SMALL, learn_wo=True),
    "everything": ModelConfig(
        **SMALL, n_heads=2, layer_norm=True, bias=True, learn_wv=True, learn_wo=True, mlp=True
    ),
    "MLP": ModelConfig(**SMALL, mlp=True),
}


@pytest.fixture
def own_style(monkeypatch):
    """Pictures are drawn as users get them."""
    for name, value in OWN_STYLE.items():
        monkeypatch.setitem(figures.style.STYLE, name, value)


@pytest.fixture(scope="session")
def forks():
    """`forks.run(*arguments, place=…)` runs the command in a process of its own."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def any_model(request):
    """A small model of each variant."""
    return random_model(request.param)


@pytest.fixture
def small_model():
    return random_model(VARIANTS["plain"])


def random_model(config: ModelConfig) -> ListTransformer:
    """A model none of whose arrays is zero or one throughout, so that a lost one is noticed."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(0)  # NumPy, because JAX would compile for every shape

    def draw(leaf):
        return jnp.asarray(generator.normal(size=leaf.shape), jnp.float32)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def adamw(params, gradients, config: TrainConfig, learning_rates, beta2=0.999):
    """AdamW by hand in float64, given the gradient of every step."""
    p = {name: x.astype(np.float64) for name, x in params.items()}
    m, v = ({name: np.zeros_like(x) for name, x in p.items()} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        g = {name: x.astype(np.float64) for name, x in gradient.items()}
        if config.max_grad_norm is not None:
            norm = np.sqrt(sum((x**2).sum() for x in g.values()))
            g = {name: x * min(1.0, config.max_grad_norm / (norm + 1e-6)) for name, x in g.items()}
        for name in p:
            m[name] = 0.9 * m[name] + 0.1 * g[name]
            v[name] = beta2 * v[name] + (1 - beta2) * g[name] ** 2
            update = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - beta2**t)) + config.epsilon)
            p[name] = p[name] - rate * (update + config.weight_decay * p[name])
    return p
