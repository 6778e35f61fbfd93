"""One function per picture, from the analyses' dataclasses to a matplotlib `Figure`, in one style."""

from orderscale_jax.figures.flow import Flow, information_flow
from orderscale_jax.figures.style import save

__all__ = ["Flow", "information_flow", "save"]
