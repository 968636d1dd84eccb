"""How far a description can be trusted: the one place where the levels are defined that tables and pages show."""

from __future__ import annotations

MOST_FALSE = 0.05
"""Share of false discoveries up to which a score counts."""
LEVELS = ("trusted", "weak", "not scored")
"""trusted: on clips that were held out the description tells those that activate the neuron better than other neurons' descriptions do (its AUROC is
above its own floor, their 95 % quantile), and so surely that of all neurons' scores that are as good no more than MOST_FALSE are so by chance
(q-value). weak: scored, but not so. not scored: no held-out score."""


def level(auroc: float | None, floor: float | None, q_value: float | None) -> str:
    """One of LEVELS, from a row of table neuron_scores; all None for a neuron that has none."""
    if auroc is None or floor is None:
        return LEVELS[2]
    return LEVELS[0] if auroc > floor and q_value is not None and q_value <= MOST_FALSE else LEVELS[1]


def why(auroc: float, floor: float, q_value: float | None) -> str:
    """What makes a score's level, in a few words."""
    if auroc <= floor:
        return f"not above its floor of {floor:.2f}"
    surely = level(auroc, floor, q_value) == LEVELS[0]
    unsure = "" if surely else ", but no test tells it from chance" if q_value is None else f", but with a q-value of {q_value:.2g}"
    return f"above its floor of {floor:.2f}{unsure}"
