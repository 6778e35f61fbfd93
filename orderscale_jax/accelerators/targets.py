"""Accelerators that programs are compiled for without one: what they are, and how XLA compiles for them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from orderscale_jax.errors import MissingPackage, UserError
from orderscale_jax.formatting import enumerate_words

USABLE = 0.9  # of a device's memory, as in `training.devices.memory`
PASSES = 6  # of a bfloat16 unit for one product of float32 numbers
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 1 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
}
"""  # what XLA asks of a GPU before it compiles
NVIDIA = (
    *("cuda-nvcc", "nvvm", "cuda-runtime", "cuda-cupti", "cuda-nvrtc", "cublas", "cusparse", "cusolver"),
    *("cufft", "nvjitlink"),
)


@dataclasses.dataclass(frozen=True)
class Target:
    """An accelerator, by its data sheet.

    Attributes:
      name: as the command knows it.
      platform: `tpu` or `cuda`, as `Lowered` knows it.
      kind: how the names of such devices begin.
      n_devices: how many of it are compiled for.
      bytes_per_second: of its main memory.
      flops_per_second: of products of float32 numbers with all their bits.
      memory_bytes: what programs may take of it.
      otherwise: options for programs that its compiler refuses without them. Where there is no GPU on which
        to try out kernels, XLA takes the first one it thinks of for a product, and that can be impossible.
    """

    name: str
    platform: str
    kind: str
    n_devices: int
    bytes_per_second: float
    flops_per_second: float
    memory_bytes: float
    otherwise: dict[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def kernel(self) -> str:
        """The kernel of `model.fused` that it runs."""
        return {"tpu": "tpu", "cuda": "gpu"}[self.platform]


TARGETS = {
    target.name: target
    for target in (
        Target("v5e", "tpu", "TPU v5 lite", 4, 0.819e12, 197e12 / PASSES, USABLE * 16 * 2**30),
        Target("v6e", "tpu", "TPU v6 lite", 4, 1.64e12, 918e12 / PASSES, USABLE * 32 * 2**30),
        Target(
            "h100",
            "cuda",
            "NVIDIA H100 80GB HBM3",
            1,
            3.35e12,
            67e12,
            USABLE * 80e9,
            {"xla_gpu_enable_triton_gemm": False},
        ),
    )
}


def find(name: str) -> Target:
    """The target of a name.

    Raises:
      UserError: there is none.
    """
    if name not in TARGETS:
        raise UserError(f"there is no target {name!r}; there are {enumerate_words(list(TARGETS))}")
    return TARGETS[name]


def environment(target: Target) -> dict[str, str]:
    """The variables that must be set before JAX looks for devices.

    Raises:
      MissingPackage: XLA's compiler for the target is not installed.
    """
    if target.platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise MissingPackage(
                f"to compile for {target.name} needs libtpu: pip install 'orderscale-jax[tpu]'"
            )
        alone = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # it asks and locks nothing
        return {"JAX_PLATFORMS": "cpu", **alone}
    toolkit = _toolkit()
    if toolkit is None or importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise MissingPackage(
            f"to compile for {target.name} needs NVIDIA's compiler: pip install --no-deps "
            + " ".join(nvidia_packages())
        )
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={toolkit}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}


def nvidia_packages() -> list[str]:
    """What must be installed, without what these would bring, to compile for an NVIDIA GPU."""
    version = importlib.metadata.version("jaxlib")
    compilers = [f"jax-cuda13-{part}=={version}" for part in ("pjrt", "plugin")]
    return compilers + [f"nvidia-{name}" for name in NVIDIA]


def _toolkit() -> Path | None:
    """Where the packages of NVIDIA have their compiler, if they are there."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec and spec.submodule_search_locations) or ():
        toolkit = Path(place) / "cu13"
        if (toolkit / "bin" / "ptxas").exists() and (toolkit / "nvvm" / "libdevice").exists():
            return toolkit
    return None


def lowering(platform: str):
    """A context in which programs are lowered for a platform that is not here: kernels ask what it is."""
    if platform != "cuda":
        return contextlib.nullcontext()
    device = AbstractDevice(device_kind=TARGETS["h100"].kind, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def devices(target: Target) -> Sequence[jax.Device]:
    """Devices to compile for, which need not be here; under `environment`."""
    if target.platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{target.name}:2x2").devices
    return topologies.get_topology_desc(
        target.name, target.platform, topology="1x1x1", target_config=H100
    ).devices
