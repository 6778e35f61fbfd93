"""Sparse autoencoders on SEP, whose true dictionary is known: training, and what can be asked of them."""

from orderscale_jax.sae.autoencoder import SparseAutoencoder
from orderscale_jax.sae.config import FAMILIES, SAEConfig
from orderscale_jax.sae.dictionary import Match, expected_coverage, match_dictionary, peel, seed_agreement
from orderscale_jax.sae.fidelity import Answers, Encoded, Fidelity, encode_lists, fidelity, judge
from orderscale_jax.sae.grading import Grading, grade, in_bins
from orderscale_jax.sae.steering import (
    Regions,
    Steering,
    SteeringStudy,
    reversal_regions,
    steer,
    study_steering,
)
from orderscale_jax.sae.store import import_sae, load_pretrained_sae, load_sae, pretrained_saes, save_sae
from orderscale_jax.sae.study import SAEStudy, study_sae, tabulate
from orderscale_jax.sae.sweep import Job, Source, grid, source, train
from orderscale_jax.sae.views import Readout, SepView, view_sep

__all__ = [
    "FAMILIES",
    "Answers",
    "Encoded",
    "Fidelity",
    "Grading",
    "Job",
    "Match",
    "Readout",
    "Regions",
    "SAEConfig",
    "SAEStudy",
    "SepView",
    "Source",
    "SparseAutoencoder",
    "Steering",
    "SteeringStudy",
    "encode_lists",
    "expected_coverage",
    "fidelity",
    "grade",
    "grid",
    "import_sae",
    "in_bins",
    "judge",
    "load_pretrained_sae",
    "load_sae",
    "match_dictionary",
    "peel",
    "pretrained_saes",
    "reversal_regions",
    "save_sae",
    "seed_agreement",
    "source",
    "steer",
    "study_sae",
    "study_steering",
    "tabulate",
    "train",
    "view_sep",
]
