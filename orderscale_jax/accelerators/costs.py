"""Compiles a program for a target and says what it costs there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax

from orderscale_jax.accelerators import hlo
from orderscale_jax.accelerators.programs import Program
from orderscale_jax.accelerators.targets import Target, lowering
from orderscale_jax.training.devices import planned_bytes


def costs(program: Program, target: Target, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """What a program takes of one device of a target; see `hlo.Cost` for what is counted, and how.

    Products with fewer bits are those that are not told to compute in full float32.

    The two bounds say how often a second the device could do it if it did nothing but move these bytes, or
    nothing but these products: steps of runs where it trains, otherwise calls.
    """
    function, arguments = program.build(devices)
    with lowering(target.platform):
        lowered = function.lower(*arguments)
    began, options = time.perf_counter(), {}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError:
        if not target.otherwise:
            raise
        options = target.otherwise
        compiled = lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - began
    module = hlo.read(compiled.as_text())
    cost, memory, times = hlo.cost(module), planned_bytes(compiled), program.run_steps or 1
    products = hlo.products(module)
    gathers, single_number_gathers = hlo.picks(module, "gather")
    scatters, single_number_scatters = hlo.picks(module, "scatter")
    return {
        "program": program.name,
        "target": target.name,
        "compile_seconds": round(seconds, 2),
        "compiler_options": options,
        "kernels": cost.kernels,
        "copies": cost.copies,
        "custom_kernels": hlo.custom_kernels(module),
        "gathers": gathers,
        "single_number_gathers": single_number_gathers,
        "scatters": scatters,
        "single_number_scatters": single_number_scatters,
        "products": len(products),
        "products_with_fewer_bits": sum(not product.is_full for product in products),
        "bytes_moved": cost.bytes_moved,
        "bytes_per_run_step": None if program.run_steps is None else round(cost.bytes_moved / times),
        "flops": cost.flops,
        "memory_bytes": memory,
        "fits": memory <= target.memory_bytes,
        "bound_by_memory_per_second": _rate(target.bytes_per_second, cost.bytes_moved, times),
        "bound_by_arithmetic_per_second": _rate(target.flops_per_second, cost.flops, times),
    }


def _rate(per_second: float, needed: int, times: float) -> float | None:
    """How often a second it can be done, three digits of it; None if nothing is needed."""
    return float(f"{times * per_second / needed:.3g}") if needed else None
