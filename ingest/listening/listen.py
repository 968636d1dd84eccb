"""Which neurons sounds move, and which tell sounds apart: frames of all neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.listening.ear import Ear
from ingest.listening.measures import paired_p_values, percentiles, q_values, two_sample_p_values
from ingest.listening.sounds import Sound
from warehouse import store
from warehouse.matrices import open_matrix
from warehouse.store import UserError

ABOUT = ("neuron_id", "layer", "unit", "time_position", "frequency_position", "neuron", "description", "best_class", "average_precision")
LONGEST_COURSES = 2 << 30
"""Bytes of courses that are kept at once."""


@dataclass(frozen=True)
class Apart:
    """Neurons by how they tell two groups of sounds apart, and how that was tested: paired, two-sample, or not (None)."""

    neurons: pl.DataFrame
    test: str | None


def listen(ear: Ear, sounds: Sequence[Sound], *, courses: bool = True) -> pl.DataFrame:
    """Every neuron of every sound, a row each, sounds in their order, layers in forward order, the most unusual neuron of each layer first.

    Columns: sound; neuron_id, layer, unit, time_position and frequency_position (of single positions, else null), neuron (name of an output);
    value (Float32, as an ingest stores it) and percentile among the data set's clips (`measures.percentiles`); deviations, how many standard
    deviations the value is above the clips' mean (null where the clips do not differ); rank within sound and layer by distance of the percentile
    from 50, then of the value from the mean; course over the heard part in equal steps (list; null without a time axis, and without `courses`);
    description by the latest run that describes the run's neurons; best_class, the class of the main label set that the neuron detects best, with its
    average_precision. Null is what is not defined.
    """
    sizes = sum(place.neurons for place in ear.places) * len(sounds) * 4 * 16
    if courses and sizes > LONGEST_COURSES:
        raise UserError(f"courses of {len(sounds)} sounds over {ear.neurons} neurons need {sizes / 1e9:.0f} GB: listen to fewer at a time")
    heard = ear.hear(sounds, courses=courses)
    found = _percentiles(ear, heard.values)
    about = neurons(ear)
    center, spread = about["mean"].to_numpy(), about["deviation"].to_numpy()
    frames = []
    for column, sound in enumerate(sounds):
        value = heard.values[:, column]
        with np.errstate(invalid="ignore", divide="ignore"):
            away = (value - center) / spread
        away[~np.isfinite(spread) | (spread == 0)] = np.nan
        frame = about.drop("mean", "deviation").with_columns(
            pl.Series("value", value),
            pl.Series("percentile", found[:, column]),
            pl.Series("deviations", away),
            # What no clip has is further away than what can be measured in their deviations.
            pl.Series("distance", np.where(np.isfinite(away), np.abs(away), np.where(value == center, 0, np.inf))),
            pl.Series("course", _courses(ear, heard.courses, column), dtype=pl.List(pl.Float32)),
        )
        frames.append(frame.select(pl.lit(sound.name).alias("sound"), pl.all()))
    unusual = (pl.col("percentile").fill_nan(50) - 50).abs()
    return (
        pl.concat(frames)
        .with_columns(unusual.alias("unusual"), pl.col("sound").rle_id().alias("at"))
        .sort("at", "place", "unusual", "distance", "neuron_id", descending=[False, False, True, True, False])
        .with_columns(
            (pl.int_range(pl.len()).over("at", "place") + 1).alias("rank"), pl.col("value", "percentile", "deviations").fill_nan(None)
        )
        .select("sound", *ABOUT[:6], "value", "percentile", "deviations", "rank", "course", *ABOUT[6:])
    )


def summarise(frame: pl.DataFrame) -> pl.DataFrame:
    """The neurons of `listen`, one row each over all its sounds: mean, lowest and highest percentile (null without any), sorted within layers, in
    forward order, by distance of the mean from 50; `rank` in that order."""
    order = frame.select("layer").unique(maintain_order=True).with_row_index("place")
    return (
        frame.group_by(*ABOUT, maintain_order=True)
        .agg(
            pl.len().alias("sounds"),
            pl.col("percentile").mean(),
            pl.col("percentile").min().alias("lowest"),
            pl.col("percentile").max().alias("highest"),
        )
        .join(order, on="layer", maintain_order="left")
        .sort("place", (pl.col("percentile").fill_null(50) - 50).abs(), "neuron_id", descending=[False, True, False])
        .with_columns((pl.int_range(pl.len()).over("place") + 1).alias("rank"))
        .select(*ABOUT[:6], "sounds", "percentile", "lowest", "highest", "rank", *ABOUT[6:])
    )


def tell_apart(ear: Ear, one: Sequence[Sound], other: Sequence[Sound]) -> Apart:
    """Every neuron, a row each, those first that tell two groups of sounds apart best.

    Columns beside those that say what a neuron is: percentile and percentile_other, the means of both groups (see `listen`), their difference, p_value
    and q_value. Where the sounds of both groups have the same names (without ending), pairs of these are tested by their percentiles
    (measures.paired_p_values), otherwise the groups by their values (measures.two_sample_p_values); q-values are Benjamini and Hochberg's over all neurons.
    Of two single sounds nothing is tested: both are null, and the order is that of the differences. Sounds count as independent of each other.
    """
    both = ear.hear([*one, *other], courses=False).values
    found = _percentiles(ear, both)
    first = len(one)
    pairs = _paired(one, other)
    if first == len(other) == 1:
        test, p = None, np.full(len(both), np.nan)
    elif pairs is not None:
        test, p = "paired", paired_p_values(found[:, :first], found[:, first:][:, pairs])
    else:
        test, p = "two-sample", two_sample_p_values(both[:, :first], both[:, first:])
    frame = neurons(ear).with_columns(
        pl.Series("percentile", found[:, :first].mean(axis=1)),
        pl.Series("percentile_other", found[:, first:].mean(axis=1)),
        pl.Series("p_value", p),
        pl.Series("q_value", q_values(p) if test else p),
    )
    return Apart(
        frame.with_columns((pl.col("percentile") - pl.col("percentile_other")).alias("difference"))
        .with_columns(pl.col("percentile", "percentile_other", "difference", "p_value", "q_value").fill_nan(None))
        .sort("p_value", pl.col("difference").abs(), "neuron_id", descending=[False, True, False], nulls_last=True)
        .select(*ABOUT[:6], "percentile", "percentile_other", "difference", "p_value", "q_value", *ABOUT[6:]),
        test,
    )


def _paired(one: Sequence[Sound], other: Sequence[Sound]) -> list[int] | None:
    """Where in the other group each sound's namesake stands; None unless all have one."""
    places = {_stem(sound.name): place for place, sound in enumerate(other)}
    names = [_stem(sound.name) for sound in one]
    if len(one) != len(other) or set(names) != set(places) or len(set(names)) < len(names):
        return None
    return [places[name] for name in names]


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _percentiles(ear: Ear, values: np.ndarray) -> np.ndarray:
    """Percentiles [neurons, sounds] among the run's clips."""
    found = np.empty(values.shape)
    for place in ear.places:
        rows = slice(place.first, place.first + place.neurons)
        try:
            population = open_matrix(place.path)
        except (OSError, ValueError) as error:
            raise UserError(f"{place.path} cannot be read: {getattr(error, 'strerror', None) or error}; see `auricle check`") from None
        found[rows] = percentiles(values[rows], population)
    return found


def neurons(ear: Ear) -> pl.DataFrame:
    """What is known of the ear's neurons, in the order of its values: place of their layer, the columns ABOUT, mean and deviation over the clips."""
    layers = pl.DataFrame(
        [(at, place.layer_id, place.reduction) for at, place in enumerate(ear.places)], ["place", "layer_id", "reduction"], orient="row"
    )
    with store.connect_readonly(ear.warehouse) as con:
        con.register("place", layers)
        return con.sql(
            """WITH described AS (
                SELECT max(run_id) AS run_id FROM run WHERE stage = 'descriptions' AND status = 'done'
                AND parameters::JSON ->> 'activations' = (SELECT run_key FROM run WHERE run_id = $run)),
            best AS (
                SELECT neuron_id, reduction, arg_max(class_id, average_precision) AS class_id, max(average_precision) AS average_precision
                FROM class_activation JOIN class USING (class_id) WHERE run_id = $run AND label_set_id = (
                    SELECT min(label_set_id) FROM label_set JOIN dataset USING (dataset_id) WHERE dataset.name = $dataset AND content_sha256 = $content)
                GROUP BY ALL)
            SELECT place, neuron.neuron_id, layer.name AS layer, unit, time_position, frequency_position, neuron.name AS neuron, description,
                   class.name AS best_class, average_precision, mean, deviation
            FROM place JOIN layer USING (layer_id) JOIN neuron USING (layer_id)
            LEFT JOIN activation_summary AS summary
                ON summary.run_id = $run AND summary.neuron_id = neuron.neuron_id AND summary.reduction = place.reduction
            LEFT JOIN best ON best.neuron_id = neuron.neuron_id AND best.reduction = place.reduction
            LEFT JOIN class USING (class_id)
            LEFT JOIN v_description ON v_description.neuron_id = neuron.neuron_id AND v_description.run_id = (SELECT run_id FROM described)
            ORDER BY place, neuron.neuron_id""",
            params={"run": ear.run.run_id, "dataset": ear.run.dataset, "content": ear.run.content_sha256},
        ).pl()


def _courses(ear: Ear, courses: dict[int, np.ndarray], column: int) -> pl.Series:
    """The course of every neuron for one sound, in the order of its values; null without one, and where it never has a value."""
    parts = []
    for number, place in enumerate(ear.places):
        if number in courses:
            steps = courses[number][column].T
            parts.append(_lists(steps))
        else:
            parts.append(pl.Series([None] * place.neurons, dtype=pl.List(pl.Float32)))
    return pl.concat(parts)


def _lists(steps: np.ndarray) -> pl.Series:
    """Rows [neurons, steps] as lists, null where they are NaN."""
    flat = pl.Series(steps.reshape(-1)).fill_nan(None)
    return flat.reshape((-1, steps.shape[1])).arr.to_list()
