"""Where the labels of many crossing arrows go without touching each other. E arrows, K places."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

N_PLACES = 31  # candidates along an arrow
N_SAMPLES = 40  # points of an arrow that a label may cover
GAP = 1.5  # points of air around a label
END = 4.0  # points at an arrow's tip that stay free, for the head
N_SWEEPS = 20
OVERLAP, COVER, OFF_CENTRE = 1000.0, 1.0, 4.0  # costs


@functools.cache
def text_width(text: str, size: float) -> float:
    """Width in points of a line of text in the shared font."""
    return float(
        TextPath((0, 0), text, size=size, prop=FontProperties(family="DejaVu Sans")).get_extents().width
    )


def label_area(text: str, size: float) -> float:
    """Square points that a label takes with the air around it."""
    return (text_width(text, size) + 2 * GAP) * (size + 2 * GAP)


def place_labels(
    starts: np.ndarray,
    ends: np.ndarray,
    texts: Sequence[str],
    importance: Sequence[float],
    size: float,
) -> list[np.ndarray | None]:
    """Centres of labels, each on its own arrow, no two overlapping.

    Every arrow runs from left to right, [E, 2] points. A label may slide along its arrow, stays
    between the arrow's ends, and prefers to cover few other arrows and to sit near the middle. Each in turn
    takes its cheapest place given the others, until nothing moves; then, while two still overlap,
    the less important of them gets None. Deterministic.
    """
    boxes, centres = _candidates(starts, ends, texts, size)
    along = np.linspace(0, 1, N_SAMPLES)[:, None, None]
    samples = starts + along * (ends - starts)  # [S, E, 2]
    own_cost = np.stack([_own_cost(boxes[e], samples, e) for e in range(len(texts))])
    inside = np.isfinite(boxes).all(-1)
    own_cost[~inside] = np.inf

    order = np.argsort(inside.sum(1), kind="stable")
    chosen = own_cost.argmin(1)
    for _ in range(N_SWEEPS):
        before = chosen.copy()
        for e in order:
            others = np.delete(boxes[np.arange(len(texts)), chosen], e, axis=0)
            clashes = _overlap(boxes[e][:, None], others[None]).sum(1)
            chosen[e] = (own_cost[e] + OVERLAP * clashes).argmin()
        if (chosen == before).all():
            break
    final = boxes[np.arange(len(texts)), chosen]
    kept = []
    for e in sorted(range(len(texts)), key=lambda e: -importance[e]):
        if np.isfinite(final[e]).all() and not _overlap(final[e], final[kept]).any():
            kept.append(e)
    return [centres[e, chosen[e]] if e in kept else None for e in range(len(texts))]


def _candidates(starts, ends, texts, size) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [E, K, 4] (x0, y0, x1, y1; NaN where a label is wider than its arrow) and centres [E, K, 2]."""
    widths = np.array([text_width(text, size) for text in texts]) + 2 * GAP
    height = size + 2 * GAP
    first, last = starts[:, 0] + widths / 2, ends[:, 0] - END - widths / 2
    x = first[:, None] + np.linspace(0, 1, N_PLACES) * (last - first)[:, None]
    x[last < first] = np.nan
    slope = (ends - starts)[:, 1] / (ends - starts)[:, 0]
    y = starts[:, 1:] + (x - starts[:, :1]) * slope[:, None]
    half = np.stack([widths / 2, np.full_like(widths, height / 2)], -1)[:, None]
    centres = np.stack([x, y], -1)
    return np.concatenate([centres - half, centres + half], -1), centres


def _own_cost(boxes, samples, e) -> np.ndarray:
    """Cost [K] of a label's places whatever the other labels do."""
    others = np.delete(samples, e, axis=1).reshape(-1, 2)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    covered = ((others > low) & (others < high)).all(-1).sum(1)
    return COVER * covered + OFF_CENTRE * np.abs(np.linspace(-1, 1, len(boxes)))


def _overlap(a, b) -> np.ndarray:
    """Whether boxes [..., 4] overlap."""
    return ((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1)
