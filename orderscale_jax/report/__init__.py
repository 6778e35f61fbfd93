"""What was found about one model, in a form to hand on: results.json, figures, a page, claims."""

from orderscale_jax.report.claims import Claim, Judgement, claims_text, judge_claims
from orderscale_jax.report.latents import write_sae_report
from orderscale_jax.report.page import render_page
from orderscale_jax.report.published import published_kind
from orderscale_jax.report.record import complete
from orderscale_jax.report.table import number_text
from orderscale_jax.report.write import draw, flow, read_history, write_report

__all__ = [
    "Claim",
    "Judgement",
    "claims_text",
    "complete",
    "draw",
    "flow",
    "judge_claims",
    "number_text",
    "published_kind",
    "read_history",
    "render_page",
    "write_report",
    "write_sae_report",
]
