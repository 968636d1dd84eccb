"""How often the intervals of 95 % hold the truth, by simulation: as they were, or as if all were independent, and as they are.

    .venv/bin/python benchmarks/coverage.py

Each world has the dependence that the interval claims to know: clusters nested in others, neurons that are near-copies of each other, clips cut from one
recording. Results to benchmarks/results/coverage.json: by world the share of draws whose interval holds the truth (for tests and the judge's floor the
share beyond it, which should be 0.05), `before` and `after`, and the share of draws in which `after` was defined. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from analyze import intervals
from ingest.methods import held_out

RESULTS = Path(__file__).parent / "results" / "coverage.json"
Z = 1.959964
Draw = tuple[bool, bool | None]
"""Whether the interval held the truth (or the test rejected it) before, and after; None where undefined."""


def holds(interval: intervals.Interval, truth: float) -> bool | None:
    if interval["low"] is None or interval["high"] is None:
        return None
    return interval["low"] <= truth <= interval["high"]


def around(estimate: float, error: float, truth: float) -> bool:
    return bool(abs(estimate - truth) <= Z * error)


def normal(values: np.ndarray, truth: float) -> bool:
    """The interval of a mean as if all were independent."""
    return around(values.mean(), values.std(ddof=1) / np.sqrt(len(values)), truth)


def sizes(rng: np.random.Generator, families: int, most: int) -> np.ndarray:
    """Members of each family [families], 1 to about `most`, few of them large."""
    return rng.geometric(min(1.0, 3 / most), families).clip(max=most)


# --- Worlds -------------------------------------------------------------------------------------------------------------------------------


def nested(rng: np.random.Generator, families: int, truth: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Drops of clusters and the top-level cluster of each: nested ones hold the same neurons, so they cost about the same."""
    family = np.repeat(np.arange(families), sizes(rng, families, 12))
    return truth + rng.normal(0, 2, families)[family] + rng.normal(0, 0.5, len(family)), family


def interventions(rng: np.random.Generator, families: int) -> Draw:
    drops, family = nested(rng, families)
    return normal(drops, 1.5), holds(intervals.mean(drops, family), 1.5)


def interventions_test(rng: np.random.Generator, families: int) -> Draw:
    """The sign test, where there is nothing to find."""
    drops, family = nested(rng, families, 0)
    means = np.bincount(family, drops) / np.bincount(family)
    return tuple(intervals.sign_test(int((its > 0).sum()), int((its < 0).sum())) < 0.05 for its in (drops, means))


def neurons(rng: np.random.Generator, families: int, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Near-copies: the family of each neuron [neurons] and the clips that move it most [neurons, 5], two clips a source; loud ones move some
    families more. Copies have one clip in ten of their own."""
    family = np.repeat(np.arange(families), sizes(rng, families, 15))
    clips = np.stack([rng.choice(2 * sources, 5, replace=False) for _ in range(families)])[family]
    own = rng.random(clips.shape) < 0.1
    clips[own] = rng.integers(0, 2 * sources, own.sum())
    return family, clips


def heard(clips: np.ndarray) -> list[list[str]]:
    return (clips // 2).astype(str).tolist()


def adjectives(rng: np.random.Generator, families: int) -> Draw:
    family, clips = neurons(rng, families, 10 * families)
    said = rng.random(families)[family] < 0.3
    flip = rng.random(len(said)) < 0.1
    said[flip] = rng.random(flip.sum()) < 0.3
    p, n = said.mean(), len(said)
    half = Z * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    before = abs((p + Z * Z / (2 * n)) / (1 + Z * Z / n) - 0.3) <= half
    return bool(before), holds(intervals.share(said, intervals.near_copies(heard(clips))), 0.3)


def medians(rng: np.random.Generator, families: int) -> Draw:
    family, clips = neurons(rng, families, 10 * families)
    areas = 0.65 + rng.normal(0, 0.08, families)[family] + rng.normal(0, 0.03, len(family))
    return (
        bool(holds(intervals.median(areas, range(len(areas))), 0.65)),
        holds(intervals.median(areas, intervals.near_copies(heard(clips))), 0.65),
    )


def acoustics(rng: np.random.Generator, families: int, sources: int) -> Draw:
    """Neurons of which some are called loud: 4 dB louder clips, of families that differ, and clips that share sources."""
    family, clips = neurons(rng, families, sources)
    loud = (rng.random(families) < 0.4)[family]
    level = (rng.normal(0, 6, sources)[:, None] + rng.normal(0, 3, (sources, 2))).ravel()
    values = level[clips] + (rng.normal(0, 3, families)[family] + 4 * loud)[:, None]
    if loud.all() or not loud.any():
        return True, None
    means = values.mean(axis=1)
    one, other = means[loud], means[~loud]
    error = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)) if min(len(one), len(other)) > 1 else 0
    copies = np.repeat(intervals.near_copies(heard(clips)), 5)
    rows = values.ravel(), np.full(values.size, 0.2), np.repeat(loud, 5), copies, (clips // 2).ravel()
    return around(one.mean() - other.mean(), error, 4), holds(intervals.difference(*rows), 4)


def importance(rng: np.random.Generator, sources: int) -> Draw:
    """Percentage points of accuracy lost on clips cut from recordings, which are mostly told rightly or wrongly together."""
    source = np.repeat(np.arange(sources), sizes(rng, sources, 6))
    right, lost = rng.random(sources) < 0.8, rng.random(sources) < 0.25
    both = right[source] & ~(rng.random(len(source)) < 0.1), lost[source] ^ (rng.random(len(source)) < 0.1)
    drop = 100.0 * (both[0] & both[1])
    truth = 100 * 0.8 * 0.9 * (0.25 * 0.9 + 0.75 * 0.1)
    return normal(drop, truth), holds(intervals.mean(drop, source), truth)


def judged(rng: np.random.Generator, per_source: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ratings 0 to 10 of 20 clips by one who knows nothing of the neuron, its positives, and what clips were cut from."""
    sources = 20 // per_source
    source = np.repeat(np.arange(sources), per_source)
    ratings = (5 + 2 * rng.normal(size=sources)[source] + rng.normal(0, 0.7, 20)).round().clip(0, 10)
    return ratings, np.isin(source, rng.permutation(sources)[: sources // 2]), [str(number) for number in source]


def judge_floor(rng: np.random.Generator, per_source: int) -> Draw:
    ratings, positive, groups = judged(rng, per_source)
    from sklearn.metrics import roc_auc_score

    area, seed = roc_auc_score(positive, ratings), int(rng.integers(2**31))
    alone = held_out.permutation_floor(ratings, positive, [str(clip) for clip in range(20)], seed=seed)[0]
    return area > alone, area > held_out.permutation_floor(ratings, positive, groups, seed=seed)[0]


def areas(rng: np.random.Generator, positives: int, per_source: int = 4) -> Draw:
    """AUROC of a description, of whose neuron `positives` recordings of four clips each are positive, and nine times as many are not."""
    source = np.repeat(np.arange(10 * positives), per_source)
    positive = source < positives
    scores = positive + 0.8 * rng.normal(size=10 * positives)[source] + 0.6 * rng.normal(size=len(source))
    truth = 0.7602499389065233
    found = []
    for groups in (range(len(source)), source):
        low, high = held_out.interval(scores[None], positive[None], [str(group) for group in groups])
        found.append(bool(low[0] <= truth <= high[0]))
    return found[0], found[1]


WORLDS: dict[str, tuple[Callable[..., Draw], dict[str, int], int]] = {
    **{f"interventions, {n} top-level clusters": (interventions, {"families": n}, 2000) for n in (8, 15, 30, 60)},
    **{f"sign test of interventions, {n} top-level clusters": (interventions_test, {"families": n}, 2000) for n in (15, 60)},
    **{f"acoustics, {n} families of neurons, {s} recordings": (acoustics, {"families": n, "sources": s}, 1000)
       for n, s in ((30, 300), (100, 300), (100, 100))},
    **{f"importance, {n} recordings": (importance, {"sources": n}, 2000) for n in (40, 200)},
    **{f"adjectives, {n} families of neurons": (adjectives, {"families": n}, 1000) for n in (20, 40, 100)},
    **{f"median of description_scores, {n} families of neurons": (medians, {"families": n}, 1000) for n in (20, 40, 100)},
    **{f"AUROC of a description, {n} positive recordings": (areas, {"positives": n}, 1000) for n in (5, 10, 20)},
    **{f"judge's floor, {n} clips a recording": (judge_floor, {"per_source": n}, 1000) for n in (1, 2, 4)},
}  # fmt: skip
"""What is simulated, its settings, and the number of draws."""


def measure(share_of_draws: float = 1.0, seed: int = 0) -> Iterator[tuple[str, dict[str, float]]]:
    """By world the shares before and after; fewer draws with `share_of_draws` below 1."""
    for number, (name, (world, settings, draws)) in enumerate(WORLDS.items()):
        rng = np.random.default_rng([seed, number])
        found = [world(rng, **settings) for _ in range(max(1, round(share_of_draws * draws)))]
        after = [held for _, held in found if held is not None]
        yield name, {
            "before": round(float(np.mean([held for held, _ in found])), 3),
            "after": round(float(np.mean(after)), 3) if after else float("nan"),
            "defined": round(len(after) / len(found), 3), "draws": len(found),
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    result = {}
    for name, counts in measure():
        result[name] = counts
        print(f"{name}: {counts['before']:.3f} before, {counts['after']:.3f} after", flush=True)
    chosen.output.write_text(json.dumps(result, indent=1) + "\n")
