"""Stage `map`: where each neuron lies on a plane on which neurons that answer alike lie together (t-SNE)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.methods.mapping import correlations
from ingest.methods.mapping.layout import lay_out, neighbours_kept
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.map.parts import Part, beside, earlier_layout, gathered
from ingest.stages.recorded import read_recorded

STAGE = "map"
TITLE = "map of {network} on {dataset}"
UNIT = "maps"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BOUNDS = {"perplexity": (2, math.inf), "dimensions": (2, math.inf), "seed": (0, math.inf)}
NEAR, AMONG, ASKED = 10, (10, 50), 500
"""Of so many neurons the nearest by correlation are looked for among the nearest on the map."""


@dataclass(frozen=True)
class Settings:
    """How neurons are laid out. perplexity: how many neighbours each is drawn to, about. dimensions: principal components of the clips that nearness
    is by. seed: of their iteration. together: networks that recorded the same clips before are laid out on the same plane."""

    perplexity: float = 30.0
    dimensions: int = 50
    seed: int = 0
    together: bool = False


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Lay out every channel and unit recorded that is not constant, as one unit of work, beginning from the latest map of an earlier run that has any
    of them. Layers of positions are left out; a run that has no other, and one of fewer than two such neurons, has a failure row."""
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    others = beside(recorded) if settings.together else []
    parameters: dict[str, object] = {"perplexity": settings.perplexity, "dimensions": settings.dimensions}
    if others:
        parameters["together"] = [other.run_key for other in others]
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    worked = 0
    for item, _ in run.pending({"map": None}, progress):
        parts = gathered([recorded, *others])
        neuron_ids = np.concatenate([np.empty(0, dtype=np.int64), *(part.neuron_ids for part in parts)])
        if len(neuron_ids) < 2:
            what = "fewer than two neurons that are not constant" if parts else "no channels or units"
            run.record([item], {}, [(item, f"{recorded.network} recorded {what}")])
            continue
        start_run_id, earlier = earlier_layout(context.warehouse, run.run_id, neuron_ids)

        def blocks(parts: list[Part] = parts) -> Iterator[np.ndarray]:
            for part in parts:
                yield from part.blocks()

        points = correlations.components(blocks, len(parts[0].clips), settings.dimensions, settings.seed)
        layout = lay_out(points, perplexity=settings.perplexity, seed=settings.seed, earlier=earlier)
        asked = np.random.default_rng(settings.seed).choice(len(neuron_ids), min(ASKED, len(neuron_ids)), replace=False)
        kept = neighbours_kept(blocks, layout.places, np.sort(asked), min(NEAR, len(neuron_ids) - 1), AMONG)
        about: dict[str, int | float | None] = {
            "clips": len(parts[0].clips), "neurons": sum(part.layer.neurons for part in parts), "placed": len(neuron_ids), "unit": layout.unit,
            "divergence": layout.divergence, "near_10": kept[10], "near_50": kept[50],
        }  # fmt: skip
        if earlier is not None:
            known = np.isfinite(earlier.places).all(axis=1)
            apart = ((layout.places[known] - earlier.places[known]) ** 2).sum(axis=1)
            about |= {"start_run_id": start_run_id, "shared": int(known.sum()), "moved": float(np.sqrt(apart.mean()))}
        positions = pl.DataFrame({"neuron_id": neuron_ids, "x": layout.places[:, 0], "y": layout.places[:, 1]})
        run.record([item], {"neuron_position": positions, "neuron_map": pl.DataFrame([{k: v for k, v in about.items() if v is not None}])})
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())
