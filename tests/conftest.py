"""What the tests of several rooms need."""

import os
import tempfile

# The tests' programs are small and run briefly: compiling them as well as possible costs twice the time
# that it saves. What several tests, workers or subprocesses build anew is compiled once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="orderscale_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax.model import ListTransformer, ModelConfig

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
