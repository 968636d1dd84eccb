"""When in a clip a neuron is active, set against what its rule says of windows of the sound."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import polars as pl

from ingest.methods import rules
from ingest.methods.scoring.moments import fuzz, starts, windowed
from ingest.sounds.sound import SoundError, decode
from ingest.stages.properties import measured, read_properties
from ingest.stages.recorded import RecordedLayer
from ingest.stages.scoring.trials import TEST, test_rows
from ingest.stages.scoring.work import Work
from warehouse import store


@dataclass
class Moments:
    """Sounds are measured when the first layer needs them. `paths` are the sound files by clip name, `written` [clips] (bool) the clips that the rules
    of `description_run`, over the properties of `property_run`, were found on; `window_s` seconds are a window."""

    work: Work
    description_run: int
    property_run: int
    written: np.ndarray
    paths: Mapping[str, Path]
    window_s: float

    @cached_property
    def known(self) -> tuple[dict[str, int], np.ndarray]:
        """Columns of the properties, and their values [clips, properties]."""
        names, values, _ = read_properties(self.work.recorded.warehouse, self.property_run, self.work.recorded.clip_ids.tolist())
        return {name: column for column, name in enumerate(names)}, values

    @cached_property
    def windows(self) -> np.ndarray:
        """Properties [held-out clips, windows, properties] of windows of the sounds; NaN where one is undefined, lies beyond the sound's end, or the file
        cannot be read any more."""
        columns, _ = self.known
        clip_s, window_s = self.work.recorded.clip_s, self.window_s
        begin = starts(clip_s, window_s)
        places = np.flatnonzero(self.work.clips.columns)
        found = np.full((len(places), len(begin), len(columns)), np.nan)
        for row, place in enumerate(places):
            try:
                mono, rate_hz, _ = decode(self.paths[self.work.recorded.clip_names[place]], middle_s=clip_s)
            except (SoundError, KeyError):
                continue
            for number, start in enumerate(begin):
                first, end = round(start * rate_hz), round((start + window_s) * rate_hz)
                if end <= len(mono) + 1:
                    for name, value in measured(mono[first:end], rate_hz).items():
                        if name in columns:
                            found[row, number, columns[name]] = value
        return found

    def rows(self, layer: RecordedLayer) -> pl.DataFrame:
        """Rows of table description_test, test fuzz, of a layer's neurons whose rule has conditions on measured properties alone, and whose course
        over their highest held-out clips is known."""
        conditions = self._conditions(layer)
        courses = self._courses(layer, conditions)
        if not courses:
            return pl.DataFrame(schema=TEST)
        predicted, defined = self._predicted(list(conditions.values()))
        place = {neuron: row for row, neuron in enumerate(conditions)}
        clips = [np.array(its, dtype=np.int64) for its, _ in courses.values()]
        lines = []
        for neuron, (its, course) in courses.items():  # pauses have no depth in a window of silence: there the rule says nothing
            line = windowed(np.array(course, dtype=np.float64), self.work.recorded.clip_s, self.window_s)
            lines.append(np.where(defined[place[neuron], its], line, np.nan))
        trials = fuzz(predicted, lines, clips, [place[neuron] for neuron in courses], self.work.clips.groups)
        return test_rows(np.array(list(courses)), "rule", "fuzz", trials)

    def _conditions(self, layer: RecordedLayer) -> dict[int, list[tuple[int, int, float, float]]]:
        """By neuron its rule's conditions: column of the property, direction, place of the threshold, weight."""
        with store.connect_readonly(self.work.recorded.warehouse) as con:
            found = con.execute(
                """SELECT neuron_id, property, if(direction = 'over', 1, -1), place, weight FROM rule_condition
                WHERE run_id = ? AND neuron_id BETWEEN ? AND ? ORDER BY neuron_id, position""",
                [self.description_run, layer.first_neuron_id, layer.first_neuron_id + layer.neurons - 1],
            ).fetchall()
        columns, _ = self.known
        out = {}
        for neuron, its in groupby(found, key=itemgetter(0)):
            parts = list(its)
            if all(part[1] in columns for part in parts):
                out[neuron] = [(columns[name], sign, at, weight) for _, name, sign, at, weight in parts]
        return out

    def _courses(self, layer: RecordedLayer, ruled: Container[int]) -> dict[int, tuple[list[int], list[list[float]]]]:
        """By neuron, of those `ruled`, with a course: which held-out clips are among its highest, and its course over each."""
        held = {int(clip): place for place, clip in enumerate(self.work.recorded.clip_ids[self.work.clips.columns])}
        with store.connect_readonly(self.work.recorded.warehouse) as con:
            found = con.execute(
                """SELECT neuron_id, clip_id, course FROM top_clip
                WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND reduction = 'mean' AND side = 'high' AND course IS NOT NULL
                ORDER BY neuron_id, rank""",
                [self.work.recorded.run_id, layer.first_neuron_id, layer.first_neuron_id + layer.neurons - 1],
            ).fetchall()
        out: dict[int, tuple[list[int], list[list[float]]]] = {}
        for neuron, clip, course in found:
            if clip in held and neuron in ruled:
                its = out.setdefault(neuron, ([], []))
                its[0].append(held[clip])
                its[1].append([np.nan if value is None else value for value in course])
        return out

    def _predicted(self, every: list[list[tuple[int, int, float, float]]]) -> tuple[np.ndarray, np.ndarray]:
        """What rules, given by their conditions, predict of windows: [rules, held-out clips, windows], NaN beyond a sound's end; and whether all
        properties that a rule names are defined there."""
        windows, (_, values) = self.windows, self.known
        there = np.isfinite(windows).any(axis=2)
        degrees: dict[tuple[int, int, float], np.ndarray] = {}
        out, defined = np.zeros((len(every), *there.shape), dtype=np.float32), np.ones((len(every), *there.shape), dtype=bool)
        for row, conditions in enumerate(every):
            for column, sign, at, weight in conditions:
                key = (column, sign, at)
                if key not in degrees:
                    degrees[key] = rules.degree(windows[:, :, column], values[self.written, column], sign, at)
                out[row] += (weight * degrees[key]).astype(np.float32)
                defined[row] &= np.isfinite(windows[:, :, column])
        out[:, ~there] = np.nan
        return out, defined
