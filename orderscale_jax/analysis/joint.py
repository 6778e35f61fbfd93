"""What happens when several attention edges are cut at once?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orderscale_jax.analysis.errors import OutputErrors, output_errors
from orderscale_jax.analysis.observation import Observation, Outcome, intervene
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import MODE_WORDS
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model.cuts import cutting, keep_vector, replacements
from orderscale_jax.model.interventions import check_mode, keep_weights
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class JointAblation(Printable):
    """A model with some edges cut.

    Attributes:
      edges: the edges cut.
      mode: what it meant to cut an edge, see `model.cuts`.
      head: the head they were cut in; None means all.
      outcome: predictions, loss and accuracies.
      errors: what each output says where it is wrong; `errors[1]` is o2's.
    """

    edges: tuple[Edge, ...]
    mode: str
    head: int | None
    outcome: Outcome
    errors: tuple[OutputErrors, ...]

    def table(self) -> str:
        """The edges, then how often the outputs are right and what they say where they are wrong."""
        graph = Graph(len(self.errors), 1 + max((edge.layer for edge in self.edges), default=0))
        names = ", ".join(map(graph.label, self.edges)) or "none"
        head = "" if self.head is None else f" in head {self.head}"
        tables = (errors.table() for errors in self.errors if errors.n_wrong)
        return "\n\n".join([f"cut{head} ({MODE_WORDS[self.mode]}): {names}", self.outcome.table(), *tables])


def ablate_jointly(
    observation: Observation,
    edges: Iterable[tuple[int, int, int] | str],
    mode: str = "renormalize",
    head: int | None = None,
    *,
    seed: int = 0,
) -> JointAblation:
    """Cuts all `edges`, (layer, query, key) or `L1 o2<-o1` each, for every list in one forward pass.

    What `mean` and `resample` put in the place of an edge is made of the observed lists, see `model.cuts`.

    Raises:
      UserError: an edge, the head or the mode does not exist.
    """
    check_kind("observation", observation, Observation)
    check_mode(mode)
    edges = observation.graph.check(edges)
    model, lists = observation.model, observation.lists
    keep = keep_weights(model.config, edges, head=head)
    replaced = replacements(model, lists, mode, seed=seed, head=head)
    added = None
    if replaced is not None:
        added = cutting(model.config, keep_vector(observation.graph, edges), False, replaced).added
    outcome = intervene(observation, keep=keep, renormalize=mode == "renormalize", added=added)
    return JointAblation(edges, mode, head, outcome, output_errors(observation.lists, outcome))
