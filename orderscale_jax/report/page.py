"""The page of one model: its results in words, tables and pictures, in one file that fetches nothing."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np

from orderscale_jax.analysis import Study
from orderscale_jax.errors import check_kind
from orderscale_jax.explorer import explorer_html, why_no_explorer
from orderscale_jax.figures import Curve
from orderscale_jax.figures.style import STYLE
from orderscale_jax.formatting import (
    MODE_WORDS,
    count,
    edge_label,
    enumerate_words,
    number,
    percent,
    points,
    scientific,
)
from orderscale_jax.graph import Edge
from orderscale_jax.model import MODES
from orderscale_jax.report import captions, summary
from orderscale_jax.report.claims import verdicts_text
from orderscale_jax.report.measures import LEARNT
from orderscale_jax.report.numbers import Number, Whole, shared_noun
from orderscale_jax.report.published import MARKS, Results, origin, published_kind
from orderscale_jax.report.rules import HERE, rules
from orderscale_jax.report.table import number_table

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
    found: Study, results: Results, images: Mapping[str, bytes], *, validation: np.ndarray | None = None
) -> str:
    """The whole HTML page.

    Args:
      found: the study, for the explorer.
      results: the same as `complete` gives it.
      images: the figures as PNG, by name (`write.draw`), which lie in the folder `figures` beside the page.
      validation: lists [B, n] that training left out, which the explorer's map marks.
    """
    check_kind("found", found, Study)
    model = found.observation.model
    graph, config = model.config.graph, results["config"]
    pictures, claims = _pictures(results, images), _claims(results)
    of_paper = {claim["picture"] for claim in claims}
    forms = {f.__name__: f for f in (percent, points, count, number, scientific, origin)}
    return template("report.html.jinja", **forms, marks=MARKS, here=HERE, learnt=LEARNT).render(
        results=results,
        title=f"{count(config['n_layers'], 'layer')}, lists of {count(results['list_len'], 'digit')}",
        description=summary.description(results),
        headline=summary.headline(results),
        verdicts={source: verdicts_text(counts) for source, counts in results["verdicts"].items()},
        numbers=number_table(results),
        kind=published_kind(results),
        why_no_checkpoint=WHY_NO_CHECKPOINT,
        fixed_set=summary.fixed_set(results),
        pictures=pictures,
        others=[name for name in pictures if name not in of_paper],
        separability=captions.separability(results) if "separability" in results else None,
        explorer=markupsafe.Markup(_explorer(found, results, validation)),
        why_no_explorer=why_no_explorer(model),
        modes=[f"Cut, {MODE_WORDS[mode]}" for mode in MODES],
        edges=_edges(results),
        dead=len(graph.edges) - len(graph.live_edges),
        claims=claims,
        missing=_missing(results),
    )


def template(name: str, **known: Any) -> jinja2.Template:
    """A page's template, which knows these values and, as `style`, the style sheet of all pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orderscale_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files(__package__).joinpath("templates", "report.css").read_text("utf-8")
    environment.globals |= {**known, "style": markupsafe.Markup(style)}
    return environment.get_template(name)


def _explorer(found: Study, results: Results, validation: np.ndarray | None) -> str:
    """The explorer of the model; empty if there is none."""
    model = found.observation.model
    if why_no_explorer(model):
        return ""
    unseen = None if results["validation_lists_seen"] else validation
    name = results["name"] or "this model"
    return explorer_html(model, name=name, validation=unseen, circuits=found.circuits or None)


def _pictures(results: Results, images: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """By name: title, image in base64, width in inches and sentences on what a picture shows."""
    cuts = {mode: functools.partial(captions.ablation, mode=mode) for mode in MODES}
    history = [Curve(**curve) for curve in results["history"]]
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
    return {
        name: {
            "name": name,
            "title": title,
            "image": base64.b64encode(images[name]).decode("ascii"),
            "inches": int.from_bytes(images[name][16:20], "big") / STYLE["savefig.dpi"],  # from PNG's header
            "shows": say(results),
        }
        for name, (title, say) in shows.items()
        if name in images
    }


def _claims(results: Results) -> list[dict[str, Any]]:
    """The claims, each with the paper's figure that shows it, and keys of its numbers in the results."""
    figures = {rule.key: rule.figure for rule in rules(kind)} if (kind := published_kind(results)) else {}
    out = []
    for i, claim in enumerate(results["claims"]):
        number_of_figure, picture = figures[claim["key"]] or (None, None)
        rows: dict[str, dict[str, Any]] = {}
        for source in ("published", "ours"):
            for key, measured in _judged(claim[source], f"claims.{i}.{source}.numbers"):
                noun = measured.of.noun if measured.of else ""
                row = {"label": measured.label, "noun": noun, "published": [], "ours": []}
                rows.setdefault(measured.label, row)[source].append((key, measured))
        noun = shared_noun(row["noun"] for row in rows.values())
        shown = {"rows": list(rows.values()), "noun": noun, "figure": number_of_figure, "picture": picture}
        out.append(claim | shown)
    return out


def _judged(judged: Mapping[str, Any], place: str) -> Iterator[tuple[str, Number]]:
    """The numbers of a judgement, each after its key in the results; so is what it is a share of."""
    for i, said in enumerate(judged["numbers"]):
        here = f"{place}.{i}"
        of = Whole(f"{here}.of.amount", said["of"]["amount"], said["of"]["noun"]) if "of" in said else None
        yield f"{here}.value", Number(said["place"], said["value"], said["text"], said["label"], of)


def _edges(results: Results) -> list[dict[str, Any]]:
    """A row per live edge: what it reads and what cutting it costs in each mode, ours and published.

    Every number is a pair of its key in `results.json` and the number.
    """
    graph, theirs = captions.graph_of(results), results["published"]["results"]
    sources = {"": results} | ({"published.results.": theirs} if theirs else {})
    return [
        {
            "label": edge_label(graph, edge),
            "attention": [_attention(source, edge, prefix) for prefix, source in sources.items()],
            "changes": [
                [
                    (
                        f"{prefix}ablation.{mode}.edges.{i}.delta",
                        source["ablation"][mode]["edges"][i]["delta"],
                    )
                    for prefix, source in sources.items()
                ]
                for mode in MODES
            ],
            "critical": [mode for mode in MODES if list(edge) in results["ablation"][mode]["critical"]],
        }
        for i, edge in enumerate(graph.edges)
        if graph.is_live(edge)
    ]


def _attention(results: Results, edge: Edge, prefix: str) -> tuple[str, float]:
    """Mean attention of an edge, of several heads the largest, after its key."""
    of_heads = [head[edge.query][edge.key] for head in results["mean_pattern"][edge.layer]]
    head = of_heads.index(max(of_heads))
    return f"{prefix}mean_pattern.{edge.layer}.{head}.{edge.query}.{edge.key}", of_heads[head]


def _missing(results: Results) -> list[tuple[str, str]]:
    """What does not apply and why, analyses with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for key, why in results["not_applicable"].items():
        by_reason.setdefault(why, []).append(NAMES[key])
    return [(enumerate_words(names), why) for why, names in by_reason.items()]
