"""The explorer: a page on which a reader changes what a model does with a list and sees what comes out.

The page carries small tables, not the model: with one head and frozen projections logits and scores are sums
of a few rows (`tables`), so the browser computes offline what the model would. `evaluate` is the same in
Python, in residual form.
"""

from __future__ import annotations

from orderscale_jax.explorer.film import film_model
from orderscale_jax.explorer.page import (
    PageModel,
    explorer_html,
    page_model,
    shipped_page,
    single_page,
)
from orderscale_jax.explorer.state import evaluate
from orderscale_jax.explorer.tables import why_no_explorer

__all__ = [
    "PageModel",
    "evaluate",
    "explorer_html",
    "film_model",
    "page_model",
    "shipped_page",
    "single_page",
    "why_no_explorer",
]
