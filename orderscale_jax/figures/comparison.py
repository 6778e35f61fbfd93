"""How far rankings of edges stay behind the best circuits of every size."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.circuits import Comparison
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style

METHODS = {  # names and how they are drawn; dashed: from gradients
    "single_edge": ("single-edge ablation", style.VERMILLION, "-"),
    "greedy_pruning": ("greedy pruning (ACDC)", style.ORANGE, "-"),
    "greedy_backward": ("greedy backward elimination", style.GREEN, "-"),
    "kernel_shap": ("KernelSHAP", style.SKY, "-"),
    "shapley_values": ("exact Shapley values", style.INK, "-"),
    "edge_attribution": ("EAP", style.VERMILLION, (0, (3, 2))),
    "integrated_inputs": ("EAP-IG, inputs", style.BLUE, (0, (3, 2))),
    "integrated_activations": ("EAP-IG, activations", style.GREEN, (0, (3, 2))),
    "learned_masks": ("learned masks (UGS)", style.PURPLE, (0, (3, 2))),
}


@style.styled
def regret_curves(comparisons: Mapping[str, Comparison]) -> Figure:
    """What a ranking's first k edges are worth less than the best set of k edges, for every k.

    A panel for each meaning of a cut. Methods that use gradients are dashed; the grey area reaches to what
    a ranking drawn at random loses on average.

    Args:
      comparisons: by mode.

    Raises:
      UserError: there is none, or they are of different measures.
    """
    if not isinstance(comparisons, Mapping) or not comparisons:
        raise UserError("there is no comparison of rankings to draw")
    for comparison in comparisons.values():
        check_kind("comparison", comparison, Comparison)
    measures = {comparison.measure for comparison in comparisons.values()}
    if len(measures) > 1:
        raise UserError(f"one axis is of one measure: these comparisons are of {', '.join(sorted(measures))}")
    figure = Figure(figsize=(style.PAGE, 2.9), layout="constrained")
    panels = figure.subplots(1, len(comparisons), sharey=True, squeeze=False)[0]
    for axes, (mode, found) in zip(panels, comparisons.items(), strict=True):
        sizes = np.arange(len(found.random.regret))
        axes.fill_between(sizes, 0, found.random.regret, color=style.PALE, lw=0, label="random ranking")
        for name, marks in zip(found.methods, found.marks, strict=True):
            label, color, line = METHODS.get(name, (name, style.GREY, ":"))
            axes.plot(sizes, marks.regret, color=color, ls=line, lw=1, label=label)
        axes.set(xlabel=f"edges kept of {sizes[-1]}", title=f"cut: {mode}")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    measure = measures.pop()
    panels[0].set_ylabel(f"{measure.replace('_', ' ')}, best less the ranking's")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
