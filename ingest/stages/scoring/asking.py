"""Scorers that ask a language model: judge rates single clips, detection tells those that activate the neuron among clips of its whole range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.language.judge import AT_ONCE, detection_prompt, draw_clips, draw_neurons, draw_ranges, judge_prompt
from ingest.language.replies import Asker
from ingest.methods import held_out
from ingest.methods.contrast import matched
from ingest.stages import Progress
from ingest.stages.recorded import RecordedLayer
from ingest.stages.scoring.trials import ranked
from ingest.stages.scoring.work import Found, Work, item, neurons
from warehouse import store


@dataclass
class Asking:
    """Scores by what a model says: of `most_neurons` drawn neurons, each by `most_clips` clips."""

    work: Work
    asker: Asker
    scorer: str
    most_neurons: int
    most_clips: int

    def scored(self, retry: bool, progress: Progress) -> int:
        """Score the neurons drawn, with `retry` those once more whose replies could not be used; returns the number of layers done now."""
        work, scorer = self.work, self.scorer
        worked, layers = 0, work.recorded.layers
        failed = self.failed() if retry else set()
        todo = [layer for layer in layers if item(scorer, layer) not in work.done or any(neuron in neurons(layer) for neuron in failed)]
        drawn = self.drawn() if todo else set()
        for number, layer in enumerate(layers):
            if layer in todo:
                again = item(scorer, layer) in work.done
                wanted = [
                    unit for place, unit in sorted(drawn) if place == number and (not again or layer.first_neuron_id + unit in failed)
                ]
                frames, failures = self.asked(number, wanted)
                mended = {self.named(layer.first_neuron_id + unit) for unit in wanted} - {name for name, _ in failures}
                items = [] if again else [item(scorer, layer)]
                work.run.record(items, {"description_score": pl.concat(frames)} if frames else {}, failures, sorted(mended))
                worked += 1
            progress(number + 1, len(layers))
        return worked

    def named(self, neuron: int) -> str:
        """A neuron as an item that failed."""
        return f"neuron {neuron}" if self.scorer == "judge" else f"{self.scorer}, neuron {neuron}"

    def failed(self) -> set[int]:
        """Neurons of which a reply could not be used."""
        start = self.named(0).removesuffix("0")
        with store.connect_readonly(self.work.run.warehouse) as con:
            rows = con.execute(
                "SELECT item FROM failure WHERE run_id = ? AND starts_with(item, ?)", [self.work.run.run_id, start]
            ).fetchall()
        return {int(name.removeprefix(start)) for (name,) in rows}

    def drawn(self) -> set[tuple[int, int]]:
        """The neurons asked about, out of all that have a description and positives."""
        candidates = []
        for number, layer in enumerate(self.work.recorded.layers):
            found = self.work.found(layer)
            candidates += [(number, unit) for unit, its in zip(found.units, found.positive, strict=True) if its.any()]
        return draw_neurons(candidates, self.most_neurons, self.work.seed)

    def asked(self, number: int, wanted: Sequence[int]) -> tuple[list[pl.DataFrame], list[tuple[str, str]]]:
        """Rows of table description_score of a layer's neurons, and what failed."""
        if not wanted:
            return [], []
        layer, seed = self.work.recorded.layers[number], self.work.seed
        found = self.work.found(layer)
        row_of = {unit: row for row, unit in enumerate(found.units)}
        chosen = {unit: self.clips(found, row_of[unit], (seed, number, unit)) for unit in wanted}
        prompts = {unit: self.prompts(layer, unit, np.flatnonzero(found.usable)[clips]) for unit, clips in chosen.items()}
        replies = iter(self.asker([prompt for its in prompts.values() for prompt in its]))
        frames, failures = [], []
        for unit, clips in chosen.items():
            its = [next(replies) for _ in prompts[unit]]
            if reason := next((reply.reason or "no rating" for reply in its if reply.text is None), None):
                failures.append((self.named(layer.first_neuron_id + unit), f"{self.scorer}: {reason}"))
                continue
            ratings = self.ratings([reply.text or "" for reply in its], len(clips))[None]
            inside = found.positive[row_of[unit], clips][None]
            groups = self.work.groups(found.usable)
            groups = [groups[place] for place in clips]
            scores = held_out.score(ratings, inside, groups)
            scores.floor[0], scores.p_value[0] = held_out.permutation_floor(ratings[0], inside[0], groups, seed=(seed, number, unit))
            frames.append(self.work.rows(layer, [unit], self.scorer, inside, scores))
        return frames, failures

    def clips(self, found: Found, row: int, seed: Sequence[int]) -> np.ndarray:
        """Usable clips that the model is asked about."""
        positive, values = found.positive[row], found.values[row]
        if self.scorer == "judge":
            return draw_clips(positive, self.most_clips, seed)
        clips = self.work.clips
        misses = matched(values, ranked(values, positive), clips.places[found.usable], self.most_clips // 4, clips.metric)
        return draw_ranges(values, positive, misses, self.most_clips, seed)

    def prompts(self, layer: RecordedLayer, unit: int, places: np.ndarray) -> list[str]:
        """What is asked about held-out clips, by their places among these."""
        description = self.work.descriptions[layer.first_neuron_id + unit]
        captions = [self.work.clips.captions[place] for place in places]
        if self.scorer == "judge":
            return [judge_prompt(description, caption) for caption in captions]
        return [detection_prompt(description, captions[start : start + AT_ONCE]) for start in range(0, len(captions), AT_ONCE)]

    def ratings(self, texts: Sequence[str], clips: int) -> np.ndarray:
        """What the model's replies say of each clip: its rating, or 1 where it is named and 0 where not."""
        if self.scorer == "judge":
            return np.array([float(text) for text in texts])
        named = [[str(number) in text.split()[1:] for number in range(1, AT_ONCE + 1)] for text in texts]
        return np.concatenate(named)[:clips].astype(np.float64)
