"""The page of one model: its results in words, tables and pictures, in one file that fetches nothing."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np

from orderscale_jax.analysis import Study
from orderscale_jax.explorer import explorer_html, why_no_explorer
from orderscale_jax.figures import Curve
from orderscale_jax.figures.style import STYLE
from orderscale_jax.formatting import MODE_WORDS, count, edge_label, enumerate_words, percent, points
from orderscale_jax.graph import Edge
from orderscale_jax.model import MODES
from orderscale_jax.report import captions
from orderscale_jax.report.claims import judge_claims
from orderscale_jax.report.table import (
    CHECKPOINT_NAMES,
    Results,
    number_table,
    published_checkpoints,
    published_fixed_set,
    published_grid,
    published_kind,
    recipe_grid,
)

N_EXAMPLES = 5  # lists that the explorer offers: the first right ones and the first wrong ones
NAMES = {
    "exact_circuit": "circuits among all sets of edges",
    "circuit": "closed form",
    "logit_difference": "difference of the logits",
    "alpha_swap": "exchange of alpha in the closed form",
    "order": "exchange of parts of SEP",
    "alpha_swap_full_model": "exchange of alpha in the model",
    "sep_attention": "SEP attention against correctness, and wrong lists in the plane",
    "separability": "separability of the outputs",
    "moderation_edge_ablation": "cutting what outputs read of outputs",
    "joint_ablation_notebook": "cutting that and every dead edge",
}
WHY_NO_CHECKPOINT = (
    "The published checkpoints have two or three layers and one head, are 64 wide, learn nothing but "
    "embeddings, queries, keys and the unembedding, and read lists of two of 100 digits. This model is "
    "another, so no number of theirs stands beside its own, and the paper's claims are not judged on it."
)


def render_page(
    found: Study, results: Results, images: Mapping[str, bytes], *, history: Sequence[Curve] = ()
) -> str:
    """The whole HTML page.

    Args:
      found: the study, for the explorer and the list of arrays.
      results: the same as `tabulate` gives it.
      images: the figures as PNG, by name (`write.draw`).
      history: the training run behind the picture `training_curves`.
    """
    model = found.observation.model
    graph, config = model.config.graph, results["config"]
    why_none = why_no_explorer(model)
    explorer = "" if why_none else explorer_html(model, examples=example_lists(found))
    kind = published_kind(results)
    theirs = {kind: published_checkpoints()[kind]} if kind else {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orderscale_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"percent": percent, "points": points, "count": count}
    style = resources.files(__package__).joinpath("templates", "report.css").read_text("utf-8")
    return environment.get_template("report.html.jinja").render(
        style=markupsafe.Markup(style),
        results=results,
        title=f"{count(config['n_layers'], 'layer')}, lists of {count(results['list_len'], 'digit')}",
        description=captions.description(results),
        headline=captions.headline(results),
        numbers=number_table(results),
        kind=kind,
        source_name=CHECKPOINT_NAMES.get(kind),
        why_no_checkpoint=WHY_NO_CHECKPOINT,
        grid=published_grid(results),
        recipe=recipe_grid(results),
        fixed_set=published_fixed_set(results),
        pictures=_pictures(results, images, history),
        separability=captions.separability(results) if "separability" in results else None,
        explorer=markupsafe.Markup(explorer),
        why_no_explorer=why_none,
        modes=[f"Cut, {MODE_WORDS[mode]}" for mode in MODES],
        edges=_edges(results, theirs.get(kind)),
        dead=len(graph.edges) - len(graph.live_edges),
        several_heads=config["n_heads"] > 1,
        claims=judge_claims({kind: results}, theirs) if kind else [],
        parameters=found.parameters,
        missing=_missing(results),
    )


def example_lists(found: Study) -> np.ndarray:
    """The first few lists, a wrong one among them if there is one."""
    seen = found.observation
    right, wrong = (np.flatnonzero(of)[:N_EXAMPLES] for of in (seen.list_correct, ~seen.list_correct))
    chosen = np.concatenate([right[: N_EXAMPLES - min(len(wrong), 2)], wrong[:2]])
    return seen.lists[chosen if len(chosen) else [0]]


def _pictures(
    results: Results, images: Mapping[str, bytes], history: Sequence[Curve]
) -> list[dict[str, Any]]:
    """Title, image in base64, width in inches and sentences on what it shows, of every picture there is."""
    cuts = {mode: functools.partial(captions.ablation, mode=mode) for mode in MODES}
    shows = {
        "information_flow": ("How information flows", captions.information_flow),
        **{
            f"ablation_{mode}": (f"Every edge cut, its {MODE_WORDS[mode]}", say) for mode, say in cuts.items()
        },
        "circuit_lattice": ("Every set of edges", captions.circuits),
        "attention_histograms": ("Attention over the lists", captions.attention),
        "sep_attention": ("SEP's attention and errors", captions.sep_attention),
        "order_exchanges": ("What carries order", captions.order),
        "difference_bars": ("What turns o1 into o2", captions.difference),
        "wrong_lists": ("Where the wrong lists lie", captions.wrong_lists),
        "training_curves": ("Training", lambda _: captions.training(history)),
    }
    return [
        {
            "title": title,
            "image": base64.b64encode(images[name]).decode("ascii"),
            "inches": int.from_bytes(images[name][16:20], "big") / STYLE["savefig.dpi"],  # from PNG's header
            "shows": say(results),
        }
        for name, (title, say) in shows.items()
        if name in images
    ]


def _edges(results: Results, theirs: Results | None) -> list[dict[str, Any]]:
    """A row per live edge: attention and what cutting it costs in each mode, ours and published."""
    graph = captions.graph_of(results)
    sources = [results, *([theirs] if theirs else [])]
    return [
        {
            "label": edge_label(graph, edge),
            "attention": [_attention(source, edge) for source in sources],
            "changes": [
                [source["ablation"][mode]["edges"][i]["delta"] for source in sources] for mode in MODES
            ],
            "critical": [mode for mode in MODES if list(edge) in results["ablation"][mode]["critical"]],
        }
        for i, edge in enumerate(graph.edges)
        if graph.is_live(edge)
    ]


def _attention(results: Results, edge: Edge) -> float:
    """Mean attention of an edge; of several heads the largest."""
    return max(head[edge.query][edge.key] for head in results["mean_pattern"][edge.layer])


def _missing(results: Results) -> list[tuple[str, str]]:
    """What does not apply and why, analyses with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for key, why in results["not_applicable"].items():
        by_reason.setdefault(why, []).append(NAMES[key])
    return [(enumerate_words(names), why) for why, names in by_reason.items()]
