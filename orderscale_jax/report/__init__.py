"""What was found about one model, in a form to hand on: results.json, figures, a page, claims."""

from orderscale_jax.analysis.results import results, split_sizes, tabulate
from orderscale_jax.analysis.study import Study, study
from orderscale_jax.report.claims import Claim, claims, claims_text
from orderscale_jax.report.page import page
from orderscale_jax.report.pictures import draw, flow, read_history
from orderscale_jax.report.published import kind
from orderscale_jax.report.table import number_text
from orderscale_jax.report.write import write_report

__all__ = [
    "Claim",
    "Study",
    "claims",
    "claims_text",
    "draw",
    "flow",
    "kind",
    "number_text",
    "page",
    "read_history",
    "results",
    "split_sizes",
    "study",
    "tabulate",
    "write_report",
]
