"""All circuits of a model at once: how many edges a set keeps, and how much of the task is left."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.circuits import Circuits, CircuitTable, find_circuits
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style
from orderscale_jax.formatting import NO_BREAK, count, edge_label

LETTERS = "abcd"  # of the minimal circuits that are written out below a panel
MOST_NAMED = len(LETTERS)
SPREAD = 0.36  # of the dots of one size to either side


@style.styled
def circuit_lattice(tables: Mapping[str, CircuitTable], *, tolerance: float = 0.01) -> Figure:
    """Every set of live edges as a dot, by its size and accuracy; a panel for each meaning of a cut.

    A line joins the best sets of every size. Minimal circuits are marked and written out below: sufficient
    sets of edges of which no proper subset is sufficient.

    Args:
      tables: complete, by mode.
      tolerance: see `circuits.find_circuits`.

    Raises:
      UserError: there is no table, or one is not complete.
    """
    if not isinstance(tables, Mapping) or not tables:
        raise UserError("there is no table of circuits to draw")
    for table in tables.values():
        check_kind("table", table, CircuitTable)
    found = {mode: find_circuits(table, tolerance=tolerance) for mode, table in tables.items()}
    texts = {mode: _circuits_text(circuits) for mode, circuits in found.items()}
    lines = max(text.count("\n") + 1 for text in texts.values())
    below = 0.65 + 0.125 * lines
    figure = Figure(figsize=(style.PAGE, 2.4 + below), layout="constrained")
    columns = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (mode, table) in zip(columns, tables.items(), strict=True):
        values, sizes = table.values(), table.kept.sum(1)
        E, minimal = len(table.edges), list(found[mode].minimal)
        shift = SPREAD * (2 * np.random.default_rng(0).random(len(values)) - 1) * (len(values) > 64)
        axes.scatter(sizes + shift, values, s=3, color=style.GREY, alpha=0.45, linewidths=0, rasterized=True)
        best = [values[sizes == size].max() for size in range(E + 1)]
        axes.plot(range(E + 1), best, color=style.BLUE, lw=0.9, label="best of its size")
        axes.axhline(
            values[-1] - tolerance,
            color=style.GREY,
            lw=0.6,
            ls=(0, (4, 3)),
            label=f"intact less {tolerance:g}",
        )
        axes.scatter(
            sizes[minimal], values[minimal], s=26, color=style.VERMILLION, zorder=3, label="minimal circuit"
        )
        for size in sorted(set(sizes[minimal])):
            rows = [(i, row) for i, row in enumerate(minimal[:MOST_NAMED]) if sizes[row] == size]
            if rows:
                letters, lowest = " ".join(LETTERS[i] for i, _ in rows), min(values[row] for _, row in rows)
                place = {"xytext": (0, -5), "textcoords": "offset points", "ha": "center", "va": "top"}
                axes.annotate(letters, (size, lowest), **place, color=style.VERMILLION)
        axes.set_title(f"cut: {mode}")
        axes.set(xlabel=f"edges kept of {E}", ylim=(-0.03, 1.06), xlim=(-0.6, E + 0.6))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.text(
            0, -0.2, texts[mode], transform=axes.transAxes, va="top", size=style.SMALL, linespacing=1.25
        )
    columns[0].set_ylabel("outputs right")
    columns[0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    figure.legend(
        *columns[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, handlelength=1.6
    )
    return figure


def _circuits_text(circuits: Circuits) -> str:
    """The minimal circuits in words, a letter for each, a line for each layer of it."""
    lines = []
    for letter, index in zip(LETTERS, circuits.minimal, strict=False):
        edges, by_layer = circuits.edges_of(index), {}
        for edge in edges:
            name = edge_label(circuits.graph, edge).partition(NO_BREAK)[2]
            by_layer.setdefault(edge.layer, []).append(name)
        layers = (f"L{layer} {', '.join(names)}" for layer, names in by_layer.items())
        lines += [f"{letter}: {count(len(edges), 'edge')}", *(f"    {layer}" for layer in layers)]
    if len(circuits.minimal) > MOST_NAMED:
        lines.append(f"and {len(circuits.minimal) - MOST_NAMED} more")
    return "\n".join(lines)
