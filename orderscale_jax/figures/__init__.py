"""One function per picture, from the analyses' dataclasses to a matplotlib `Figure`, in one style."""

from orderscale_jax.figures.ablation import ablation_matrix
from orderscale_jax.figures.alternatives import Alternatives, alternatives
from orderscale_jax.figures.census import census_overview
from orderscale_jax.figures.circuit import AttentionHistograms, attention_histograms, difference_bars
from orderscale_jax.figures.comparison import regret_curves
from orderscale_jax.figures.flow import Flow, information_flow
from orderscale_jax.figures.latents import dictionary_match, grading_curves, latent_activations
from orderscale_jax.figures.latents_steering import steering_lines, steering_overview
from orderscale_jax.figures.latents_sweep import proxies, sae_grid
from orderscale_jax.figures.lattice import circuit_lattice
from orderscale_jax.figures.order import order_exchanges
from orderscale_jax.figures.pairs import sep_attention_scores, wrong_lists
from orderscale_jax.figures.published import Published, read_published
from orderscale_jax.figures.style import save
from orderscale_jax.figures.sweep import outcome_strips, success_heatmap, success_rates
from orderscale_jax.figures.training import Curve, training_curves
from orderscale_jax.figures.transitions import dose_response, survival_curves

__all__ = [
    "Alternatives",
    "AttentionHistograms",
    "Curve",
    "Flow",
    "Published",
    "ablation_matrix",
    "alternatives",
    "attention_histograms",
    "census_overview",
    "circuit_lattice",
    "dictionary_match",
    "difference_bars",
    "dose_response",
    "grading_curves",
    "information_flow",
    "latent_activations",
    "order_exchanges",
    "outcome_strips",
    "proxies",
    "read_published",
    "regret_curves",
    "sae_grid",
    "save",
    "sep_attention_scores",
    "steering_lines",
    "steering_overview",
    "success_heatmap",
    "success_rates",
    "survival_curves",
    "training_curves",
    "wrong_lists",
]
