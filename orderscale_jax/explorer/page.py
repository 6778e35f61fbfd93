"""The explorer's HTML: tables of models as data, and the scripts that compute with them.

Dimensions: B lists, N digits, K sets of live edges.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import string
from collections.abc import Mapping
from importlib import resources
from typing import Any

import ml_collections
import numpy as np

from orderscale_jax.checkpoint import load_pretrained, pretrained_names
from orderscale_jax.circuits import CircuitTable, circuit_table, find_circuits
from orderscale_jax.config import model_config, task_config, validation_lists_seen
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.explorer import film
from orderscale_jax.explorer.tables import Tables, sae_tables, tables_of, why_no_explorer
from orderscale_jax.formatting import count
from orderscale_jax.model import MODES, ListTransformer
from orderscale_jax.sae import SparseAutoencoder, load_pretrained_sae, pretrained_saes
from orderscale_jax.sae.store import check_model
from orderscale_jax.task import check_lists, make_split

SCRIPTS = (  # each uses only what stands before it
    "format.js",
    "sae.js",
    "engine.js",
    "film.js",
    "session.js",
    "models.js",
    "flow.js",
    "map.js",
    "words.js",
    "controls.js",
    "outputs.js",
    "latents.js",
    "circuits.js",
    "tour.js",
    "player.js",
    "export.js",
    "explorer.js",
)
ABOUT = {  # the shipped models, in the order in which the page offers them
    "two_layer": "two layers, last W_Q and W_K as drawn",
    "two_layer_published": "two layers, everything trained, as the paper's authors do",
    "two_layer_fresh": "two layers, lists drawn afresh from all there are",
    "three_layer": "three layers",
}


@dataclasses.dataclass(frozen=True)
class PageModel:
    """A model on the page.

    Attributes:
      name: by which the reader chooses it.
      about: what it is, in a few words.
      model: of the kind that the explorer shows.
      validation: lists [B, 2] that training did not see; None if that is unknown or it saw all.
      circuits: by mode, the table of all sets of its live edges; None for a page without them.
      checkpoint: the directory from which Python loads it; None if it is shipped under its name.
      sae: a sparse autoencoder on its SEP, for models of two layers; None for a page without latents.
      sae_checkpoint: the directory from which Python loads it; of a shipped model the SAE is shipped, too.
    """

    name: str
    about: str
    model: ListTransformer
    validation: np.ndarray | None = None
    circuits: Mapping[str, CircuitTable] | None = None
    checkpoint: str | None = None
    sae: SparseAutoencoder | None = None
    sae_checkpoint: str = "…/sae"


def explorer_html(
    model: ListTransformer,
    *,
    name: str = "this model",
    validation=None,
    circuits: Mapping[str, CircuitTable] | None = None,
    checkpoint: str = "…/checkpoint",
    sae: SparseAutoencoder | None = None,
    sae_checkpoint: str = "…/sae",
    address: bool = False,
) -> str:
    """One self-contained HTML `<section>`: style, script and data inside, nothing fetched.

    In a notebook: `IPython.display.HTML(explorer_html(model))`. Its script gives the section an attribute
    `explorer`: of a state `compute` gives what is drawn of its list, logits among it, and `outcomes` what
    becomes of all lists (0 right, 1 reversed, 2 one output wrong, 3 wrong); `reversals` gives, of a state and
    the index of a latent, the intervals of its scales at which the list comes out reversed; `state` gives the
    present state, and `change` changes some of it.

    Args:
      model: of two or three layers and lists of two digits, see `why_no_explorer`.
      name: of the model, as the page says it.
      validation: lists [B, 2] that were not trained on, which the map of all lists marks.
      circuits: by mode (`renormalize`, `zero`), what `circuit_table` says of the model; the page then tells
        what a set of edges is worth, and which minimal circuit is nearest.
      checkpoint: the directory from which the model is loaded, for the Python call that the page offers.
      sae: a sparse autoencoder on SEP of a model of two layers; the page then lists the latents of a list,
        and the reader scales them.
      sae_checkpoint: the directory from which it is loaded.
      address: whether the page's address follows what the reader sets; for pages that hold nothing else.

    Raises:
      UserError: the explorer does not show this model, or lists, circuits or the SAE are not of it.
    """
    check_kind("address", address, bool)
    shown = PageModel(name, "", model, validation, circuits, checkpoint, sae, sae_checkpoint)
    return _section([shown], address=address)


def single_page(shown: PageModel) -> str:
    """A whole page for one model."""
    check_kind("shown", shown, PageModel)
    return _page([shown])


def shipped_page() -> str:
    """The page of the models that come with the package, and of the film of a training run."""
    return _page(
        [page_model(*load_pretrained(name), name) for name in ABOUT if name in pretrained_names()],
        with_film=True,
    )


def page_model(
    model: ListTransformer,
    config: ml_collections.ConfigDict,
    name: str,
    checkpoint: str | None = None,
    sae: SparseAutoencoder | None = None,
    sae_checkpoint: str = "…/sae",
) -> PageModel:
    """A checkpoint as the page shows it, with its exact circuits on its validation lists.

    Args:
      model, config: as they are loaded.
      name: of the model.
      checkpoint: the directory it was loaded from; None for a shipped model.
      sae: a sparse autoencoder on its SEP; None for the shipped one of a shipped model, if there is one.
      sae_checkpoint: the directory it was loaded from.

    Raises:
      UserError: the explorer does not show this model.
    """
    if reason := why_no_explorer(model):
        raise UserError(reason)
    if model_config(config) != model.config:
        raise UserError("config is not that of the model: give what load_checkpoint returns")
    validation = make_split(task_config(config)).validation
    tables = {mode: circuit_table(model, validation, mode) for mode in MODES}
    unseen = None if validation_lists_seen(config) else validation
    about = "" if checkpoint else ABOUT.get(name, "")
    if sae is None and checkpoint is None and name in pretrained_saes():
        sae, said = load_pretrained_sae(name)
        check_model(said, model)
    return PageModel(name, about, model, unseen, tables, checkpoint, sae, sae_checkpoint)


def _page(models: list[PageModel], with_film: bool = False) -> str:
    page = string.Template(_resource("page.html"))
    style = _resource("page.css")
    return page.substitute(section=_section(models, address=True, with_film=with_film), style=style)


def _section(models: list[PageModel], *, address: bool, with_film: bool = False) -> str:
    data = {"models": [_entry(x) for x in models], "film": _film() if with_film else None, "address": address}
    largest = max(x.model.config.n_digits for x in models) - 1
    script = "\n".join(map(_resource, SCRIPTS))
    section = string.Template(_resource("explorer.html"))
    return section.substitute(
        style=_resource("explorer.css"), script=script, data=_json(data), largest_digit=largest
    )


def _entry(shown: PageModel) -> dict[str, Any]:
    """A model's part of the page's data."""
    for what, kind in {"model": ListTransformer, "name": str, "about": str, "sae_checkpoint": str}.items():
        check_kind(what, getattr(shown, what), kind)
    if shown.checkpoint is not None:
        check_kind("checkpoint", shown.checkpoint, str)
    try:
        shown.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"name must be text that can be written, got {shown.name!r}") from None
    if reason := why_no_explorer(shown.model):
        raise UserError(reason)
    tables, config = tables_of(shown.model), shown.model.config
    graph = config.graph
    entry = {
        "name": shown.name,
        "checkpoint": shown.checkpoint,
        "about": shown.about or count(config.n_layers, "layer"),
        "n_digits": config.n_digits,
        "n_layers": config.n_layers,
        "edges": [graph.label(edge) for edge in graph.live_edges],
        "logits": _base64(tables.logits, "<f4"),
        "scores": _scores(tables),
        "validation": None,
        "circuits": None,
        "sae": None,
    }
    if shown.validation is not None:
        lists = check_lists(shown.validation, 2, config.n_digits)
        if not len(lists):
            raise UserError("validation must hold lists; where there are none, leave it out")
        unseen = np.zeros(config.n_digits**2, bool)
        unseen[lists @ (config.n_digits, 1)] = True
        entry["validation"] = _base64(np.packbits(unseen, bitorder="little"), "u1")
    if shown.circuits is not None:
        entry["circuits"] = {mode: _circuits(shown, mode) for mode in MODES}
    if shown.sae is not None:
        entry["sae"] = _sae(shown.model, shown.sae, shown.sae_checkpoint)
    return entry


def _sae(model: ListTransformer, sae: SparseAutoencoder, checkpoint: str) -> dict[str, Any]:
    """What the page needs of a sparse autoencoder."""
    tables = sae_tables(model, sae)
    return {
        "checkpoint": checkpoint,
        "encoder": _base64(tables.encoder, "<f4"),
        "thresholds": _base64(tables.thresholds, "<f4"),
        "n_kept": tables.n_kept,
        "is_binary": tables.is_binary,
        "decoder": _base64(tables.decoder, "<f4"),
        "keys": _base64(tables.keys, "<f4"),
        "correlations": np.round(tables.correlations, 3).tolist(),
        "special": tables.special.tolist(),
        "digits": [list(of) for of in tables.digits],
    }


def _circuits(shown: PageModel, mode: str) -> dict[str, Any]:
    """What the page needs of a table: outputs right by set of edges, and the minimal circuits."""
    check_kind("circuits", shown.circuits, Mapping)
    table = shown.circuits.get(mode)
    if (
        not isinstance(table, CircuitTable)
        or table.graph != shown.model.config.graph
        or not table.is_complete
    ):
        raise UserError(
            f"circuits must hold circuit_table(model, lists, mode={mode!r}) of this very model, for "
            f"each of {' and '.join(MODES)}"
        )
    outputs = table.n_lists * table.accuracy.shape[1]
    found = find_circuits(table)
    right = np.rint(table.values() * outputs).astype(int)
    return {
        "outputs": outputs,
        "right": _base64(right, "<u4" if outputs > 65535 else "<u2"),
        "minimal": list(found.minimal),
        "tolerance": found.tolerance,
    }


def _film() -> dict[str, Any]:
    """The film's frames, two logits in three bytes."""
    frames = film.load_film()
    codes = (frames.logits.ravel().astype(np.int32) + film.LARGEST + 1).reshape(-1, 2)
    first, second = codes.T
    packed = np.stack([first & 255, (first >> 8) | ((second & 15) << 4), second >> 4], axis=1)
    return {
        "model": film.MODEL,
        "steps": frames.steps.tolist(),
        "accuracy": np.round(frames.accuracy, 5).tolist(),
        "changed": frames.changed.tolist(),
        "packed": _base64(packed, "u1"),
        "unit": _base64(frames.unit, "<f4"),
        "scores": _scores(frames),
    }


def _scores(tables: Tables | film.Film) -> list[dict[str, Any]]:
    every = tables.logits.shape[-2]
    return [
        {"rows": None if len(rows) == every else rows.tolist(), "values": _base64(values, "<f4")}
        for rows, values in zip(tables.rows, tables.scores, strict=True)
    ]


def _base64(table: np.ndarray, kind: str) -> str:
    """Row-major, little-endian."""
    return base64.b64encode(np.ascontiguousarray(table, kind).tobytes()).decode("ascii")


def _json(data: Any) -> str:
    """For a script element: no `</script>` can stand in it."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
