"""What happens when several attention edges are cut at once?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orderscale_jax.analysis.errors import OutputErrors, output_errors
from orderscale_jax.analysis.observation import Observation, Outcome, intervene
from orderscale_jax.graph import Edge
from orderscale_jax.model.interventions import check_mode, keep_weights


@dataclasses.dataclass(frozen=True)
class JointAblation:
    """A model with some edges cut.

    Attributes:
      edges: the edges cut.
      mode: `renormalize` rescaled the rest of a row to sum 1 (an emptied row stays 0), `zero` did not.
      head: the head they were cut in; None means all.
      outcome: predictions, loss and accuracies.
      errors: what each output says where it is wrong; `errors[1]` is o2's.
    """

    edges: tuple[Edge, ...]
    mode: str
    head: int | None
    outcome: Outcome
    errors: tuple[OutputErrors, ...]


def ablate_jointly(
    observation: Observation,
    edges: Iterable[tuple[int, int, int]],
    mode: str = "renormalize",
    head: int | None = None,
) -> JointAblation:
    """Cuts all `edges`, (layer, query, key) each, for every list in one forward pass.

    Raises:
      UserError: an edge, the head or the mode does not exist.
    """
    check_mode(mode)
    edges = observation.graph.check(edges)
    keep = keep_weights(observation.model.config, edges, head=head)
    outcome = intervene(observation, keep=keep, renormalize=mode == "renormalize")
    return JointAblation(edges, mode, head, outcome, output_errors(observation.lists, outcome))
