"""The page of one model: its results in words, tables and pictures, in one file that fetches nothing."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from orderscale_jax.analysis import ParameterOverview
from orderscale_jax.explorer import explorer_html
from orderscale_jax.figures import Curve
from orderscale_jax.figures.style import STYLE
from orderscale_jax.graph import Edge
from orderscale_jax.model import ListTransformer
from orderscale_jax.report import published, statements, words
from orderscale_jax.report.claims import claims
from orderscale_jax.report.table import number_table

Results = Mapping[str, Any]
NAMES = {
    "circuit": "closed form",
    "logit_difference": "difference of the logits",
    "alpha_swap": "exchange of alpha in the closed form",
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


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
      title: its heading.
      image: PNG as base64.
      inches: its width, as drawn.
      shows: sentences on what it shows.
    """

    title: str
    image: str
    inches: float
    shows: list[str]


def page(
    model: ListTransformer,
    results: Results,
    parameters: ParameterOverview,
    images: Mapping[str, bytes],
    *,
    history: Sequence[Curve] = (),
    examples=None,
) -> str:
    """The whole HTML page.

    Args:
      model: for the explorer.
      results: of the model (`results.tabulate`).
      parameters: what it is made of.
      images: the figures as PNG, by name (`pictures.draw`).
      history: the training run behind the picture `training_curves`.
      examples: a few lists for the explorer to jump to.
    """
    explorer, why_no_explorer = _explorer(model, examples)
    graph = statements.graph_of(results)
    kind = published.kind(results)
    ours = {"two_layer": None, "three_layer": None} | ({kind: results} if kind else {})
    made = claims(ours["two_layer"], ours["three_layer"], _published_of(kind)) if kind else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orderscale_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files(__package__).joinpath("templates", "report.css").read_text("utf-8")
    return environment.get_template("report.html.jinja").render(
        style=markupsafe.Markup(style),
        results=results,
        title=_title(results),
        description=statements.description(results),
        headline=statements.headline(results),
        numbers=number_table(results),
        kind=kind,
        source_name=published.CHECKPOINT_NAMES.get(kind),
        why_no_checkpoint=WHY_NO_CHECKPOINT,
        grid=published.grid(results),
        pictures=_pictures(results, images, history),
        separability=statements.separability(results) if "separability" in results else None,
        explorer=markupsafe.Markup(explorer) if explorer else None,
        why_no_explorer=why_no_explorer,
        edges=_edges(results),
        dead=len(graph.edges) - len(graph.live_edges),
        several_heads=results["config"]["n_heads"] > 1,
        claims=made,
        parameters=parameters,
        missing=_missing(results),
        percent=words.percent,
        points=words.points,
        count=words.count,
    )


def _title(results: Results) -> str:
    config = results["config"]
    return f"{words.count(config['n_layers'], 'layer')}, lists of {words.count(results['list_len'], 'digit')}"


def _explorer(model: ListTransformer, examples) -> tuple[str | None, str | None]:
    """The explorer, or the sentence why there is none."""
    try:
        return explorer_html(model, examples=examples), None
    except ValueError as error:
        return None, f"{str(error)[0].upper()}{str(error)[1:]}."


def _published_of(kind: str) -> dict[str, Results]:
    return {kind: published.checkpoints()[kind]}


def _pictures(results: Results, images: Mapping[str, bytes], history: Sequence[Curve]) -> list[Picture]:
    shows = {
        "information_flow": ("How information flows", lambda: statements.information_flow(results)),
        "ablation_renormalize": (
            "Every edge cut, its row rescaled",
            lambda: statements.ablation(results, "renormalize"),
        ),
        "ablation_zero": (
            "Every edge cut, its row left as it was",
            lambda: statements.ablation(results, "zero"),
        ),
        "attention_histograms": ("Attention over the lists", lambda: statements.attention(results)),
        "sep_attention": ("SEP's attention and errors", lambda: statements.sep_attention(results)),
        "difference_bars": ("What turns o1 into o2", lambda: statements.difference(results)),
        "wrong_lists": ("Where the wrong lists lie", lambda: statements.wrong_lists(results)),
        "training_curves": ("Training", lambda: statements.training(history)),
    }
    return [
        Picture(title, base64.b64encode(images[name]).decode("ascii"), _inches(images[name]), sentences())
        for name, (title, sentences) in shows.items()
        if name in images
    ]


def _inches(png: bytes) -> float:
    """Width of a picture in inches, from the width in its header."""
    return int.from_bytes(png[16:20], "big") / STYLE["savefig.dpi"]


def _edges(results: Results) -> list[dict[str, Any]]:
    """A row per live edge: attention and what cutting it costs, ours and published."""
    graph = statements.graph_of(results)
    theirs = published.checkpoints().get(published.kind(results))
    rows = []
    for i, edge in enumerate(graph.edges):
        if not graph.is_live(edge):
            continue
        row = {"label": words.edge_label(graph, edge), "critical": []}
        for source, name in ((results, "ours"), (theirs, "published")):
            if source is None:
                continue
            row[f"attention_{name}"] = _attention(source, edge)
            for mode, ablation in source["ablation"].items():
                row[f"{mode}_{name}"] = ablation["edges"][i]["delta"]
        row["critical"] = [
            mode for mode, ablation in results["ablation"].items() if list(edge) in ablation["critical"]
        ]
        rows.append(row)
    return rows


def _attention(results: Results, edge: Edge) -> float:
    """Mean attention of an edge; of several heads the largest."""
    return max(head[edge.query][edge.key] for head in results["mean_pattern"][edge.layer])


def _missing(results: Results) -> list[tuple[str, str]]:
    """What does not apply and why, analyses with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for key, why in results["not_applicable"].items():
        by_reason.setdefault(why, []).append(NAMES[key])
    return [(words.enumerate_words(names), why) for why, names in by_reason.items()]
