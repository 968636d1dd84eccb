"""What neurons answer to in a battery of known stimuli (stage tuning), on the pages of neurons and networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from report.contents import Layer, runs_of
from report.parts import plain_words, svg
from report.parts.page import Page
from report.parts.search_index import Index
from report.topics.topic import Known, Part, Parts, Topic

RIPPLE_DENSITIES = 6


class Value(NamedTuple):
    """A measure of a neuron."""

    value: float
    low: float | None
    high: float | None


class Shown(NamedTuple):
    """A measure as pages show it: its title, its unit, and its curves, one after the other, with what their conditions go from and to."""

    title: str
    unit: str
    curves: tuple[str, ...] = ()
    axis: str = ""


SHOWN = {
    "frequency_hz": Shown("Best frequency", "Hz", ("frequency",), "tones, from 60 Hz"),
    "bandwidth_octaves": Shown("Bandwidth", "octaves"),
    "level_dbfs": Shown("Level threshold", "dBFS", ("level",), "noise, −90 to −10 dBFS"),
    "monotonicity": Shown("Monotonicity of level", ""),
    "tone_rate_hz": Shown("Best modulation rate, tone", "Hz", ("tone rate",), "modulated tone, 1 to 128 Hz"),
    "noise_rate_hz": Shown("Best modulation rate, noise", "Hz", ("noise rate",), "modulated noise, 1 to 128 Hz"),
    "direction": Shown("Direction of sweeps, 1 up, −1 down", "", ("sweep up", "sweep down"), "up, then down, 0.5 to 16 octaves/s"),
    "pitch_hz": Shown(
        "Pitch, whatever the spectrum", "Hz", ("harmonics, no fundamental",), "harmonics without fundamental, 50 Hz to 1.6 kHz"
    ),
    "gap_ms": Shown("Shortest gap told", "ms", ("gap",), "gap in noise, 0 to 200 ms"),
    "ripple_rate_hz": Shown("Best ripple, above 0 falling", "Hz", ("ripple",), "ripples: −32 to 32 Hz across, 0.25 to 8 cycles/octave up"),
    "ripple_density": Shown("Its density", "cycles/octave"),
}
FAST_HZ = 50.0
"""Best rates from which on a network of a hundred frames a second may follow aliases."""
LAYERS = {"frequency_hz": "Best frequency, Hz", "bandwidth_octaves": "Bandwidth, octaves", "rate_hz": "Best modulation rate, Hz"}


class Receptive(Topic):
    """The latest finished run of the network's tuning; every study of the network shows it, whatever data set it is of."""

    stage = "tuning"
    tables = ("tuning", "tonotopy", "description_scores")

    def read(self) -> None:
        """Find the run, and the study whose clips were played."""
        rows = self.con.execute(
            """SELECT run_id, parameters::JSON ->> 'dataset' FROM run WHERE stage = 'tuning' AND status = 'done' AND network_sha256 = ?
               AND parameters::JSON ->> 'network' = ? AND (parameters::JSON ->> 'clip_s')::DOUBLE = ? ORDER BY run_id DESC LIMIT 1""",
            [self.study.checkpoint, self.study.name, self.study.view.clip_s],
        ).fetchall()
        self.run_id, played = rows[0] if rows else (None, None)
        self.runs = self.finished = [self.run_id] if self.run_id is not None else []
        same = [known.study for known in self.known.studies if (known.study.name, known.study.dataset.name) == (self.study.name, played)]
        self.played = same[0] if same else self.study

    def network(self, page: Page) -> Iterator[Part]:
        """Best frequency, bandwidth and best modulation rate over layers."""
        if self.run_id is None:
            return
        by_name = {layer.name: layer for layer in self.study.layers}
        layers: dict[str, dict[str, dict]] = defaultdict(dict)
        for row in self.table("tuning"):
            if row["run_id"] == self.run_id and row["layer"] in by_name and row["measure"] in LAYERS:
                layers[row["layer"]][row["measure"]] = row
        rows = {
            f"tuning_{measure}": [
                {
                    "layer": name, "position": its[measure]["position"], "value": its[measure]["median"], "low": its[measure]["quantile_25"],
                    "high": its[measure]["quantile_75"], "tuned": its[measure]["tuned"], "href": page.root + by_name[name].page,
                }
                for name, its in layers.items() if measure in its and its[measure]["median"] is not None
            ]
            for measure in LAYERS
        }  # fmt: skip
        found = [(by_name[name], its) for name, its in layers.items()]
        found.sort(key=lambda row: row[0].position)
        fast = any(row["high"] >= FAST_HZ for row in rows["tuning_rate_hz"])
        places = self._places(by_name, page)
        rows |= {f"tonotopy_{layer.layer_id}": its for layer, _, its in places}
        predicted = self._predicted(by_name)
        yield Part(
            page.draw("receptive", layers=found, rows=rows, measures=LAYERS, fast=fast, places=places, predicted=predicted),
            "top", [self.scored] if predicted and self.scored else [], rows=rows, link=("tuning", "tuning"),
        )  # fmt: skip

    def _places(self, by_name: dict[str, Layer], page: Page) -> list[tuple[Layer, float | None, list[dict]]]:
        """Layers whose neurons are positions along a frequency axis: Spearman's correlation of place and best frequency, and rows of a chart."""
        found: dict[str, list[dict]] = defaultdict(list)
        for row in self.table("tonotopy"):
            if row["run_id"] == self.run_id and row["layer"] in by_name:
                found[row["layer"]].append(row)
        return [
            (
                by_name[name], its[0]["correlation"],
                [
                    {
                        "layer": f"place {row['frequency_position']}", "position": row["frequency_position"], "value": row["median"],
                        "low": row["quantile_25"], "high": row["quantile_75"], "tuned": row["tuned"], "href": page.root + by_name[name].page,
                    }
                    for row in its if row["median"] is not None
                ],
            )
            for name, its in found.items()
        ]  # fmt: skip

    def _predicted(self, by_name: dict[str, Layer]) -> list[tuple[Layer, dict[str, dict]]]:
        """How well tuning, and rules, tell held-out clips of the study's data set, by layer and scorer; none where tuning was not scored."""
        self.scored = next(iter(runs_of(self.con, self.study, "scores")), None)
        found: dict[str, dict[str, dict]] = defaultdict(dict)
        for row in self.table("description_scores"):
            if row["run_id"] == self.scored and row["scorer"] in ("tuning", "rule") and row["layer"] in by_name:
                found[row["layer"]][row["scorer"]] = row
        return [(by_name[name], its) for name, its in found.items()] if any("tuning" in its for its in found.values()) else []

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """A neuron's measures, each with its curve and the stimulus it is highest for."""
        if self.run_id is None:
            return Parts()
        values: dict[int, dict[str, Value]] = defaultdict(dict)
        for neuron_id, measure, *value in self.con.execute(
            "SELECT neuron_id, measure, value, low, high FROM tuning WHERE run_id = ? AND neuron_id BETWEEN ? AND ?",
            [self.run_id, layer.first, layer.last],
        ).fetchall():
            its = values[neuron_id]
            if value[0] is not None:
                its[measure] = Value(*value)
        curves: dict[int, dict[str, list[float]]] = defaultdict(dict)
        for neuron_id, curve, responses in self.con.execute(
            "SELECT neuron_id, curve, responses FROM tuning_curve WHERE run_id = ? AND neuron_id BETWEEN ? AND ?",
            [self.run_id, layer.first, layer.last],
        ).fetchall():
            curves[neuron_id][curve] = responses
        clips = {
            (curve, position): clip_id
            for curve, position, clip_id in self.con.execute(
                "SELECT curve, position, clip_id FROM tuning_condition WHERE run_id = ?", [self.run_id]
            ).fetchall()
        }
        said = dict(
            self.con.execute(
                "SELECT neuron_id, sentence FROM tuning_sentence WHERE run_id = ? AND neuron_id BETWEEN ? AND ?",
                [self.run_id, layer.first, layer.last],
            ).fetchall()
        )
        return Parts(
            {
                n: [
                    Part(Markup('<p class="note">Tuning: {}</p>').format(said[n]) if n in said else Markup(), "told"),
                    Part(self._section(page, its, curves[n], clips), "summary"),
                ]
                for n, its in values.items()
            },
            self.runs,
        )  # fmt: skip

    def _section(self, page: Page, its: dict[str, Value], curves: dict[str, list[float]], clips: dict[tuple[str, int], int]) -> Markup:
        rows = []
        for measure, shown in SHOWN.items():
            if measure not in its:
                continue
            value, low, high = its[measure]
            interval = f" ({_said(low)} to {_said(high)})" if low is not None and high is not None else ""
            drawn = axis = ""
            if shown.curves and all(curve in curves for curve in shown.curves):
                places = [(curve, place) for curve in shown.curves for place in range(len(curves[curve]))]
                responses = [curves[curve][place] for curve, place in places]
                rows_of = f' data-rows="{RIPPLE_DENSITIES}"' if measure == "ripple_rate_hz" else ""
                drawn = f' data-c="{svg.levels(responses)}"{rows_of}'
                axis = page.hear(self.played, clips.get(places[max(range(len(places)), key=responses.__getitem__)]), shown.axis)
            text = f"{_said(value)} {shown.unit}".rstrip()
            rows.append(f"<li{drawn}>{shown.title} <b>{text}</b>{interval}{axis}</li>")
        if holds := its.get("rate_holds"):
            rows.append(
                f"<li>The best modulation rate {'is one for tone and noise' if holds.value else 'does not hold for both carriers'}.</li>"
            )
        nothing = '<p class="note">It answers to none of the known stimuli differently beyond chance.</p>'
        inner = f'<ul class="tuned">{"".join(rows)}</ul>' if rows else nothing
        return Markup(f"<section><h2>Tuning</h2>{inner}</section>")

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Tuning in words, on the pages of the first study of a network."""
        first = {known[cls].run_id: known.study for known in reversed(studies)}
        for known in studies:
            run_id = known[cls].run_id
            if run_id is None or first[run_id] is not known.study:
                continue
            for neuron_id, sentence, frequency, rate in known.con.execute(
                """SELECT neuron_id, any_value(sentence), max(value) FILTER (measure = 'frequency_hz'), max(value) FILTER (measure = 'rate_hz')
                   FROM tuning LEFT JOIN tuning_sentence USING (run_id, neuron_id) WHERE run_id = ? GROUP BY neuron_id ORDER BY neuron_id""",
                [run_id],
            ).fetchall():
                if known.study.has_page(neuron_id):
                    index.say(known.study, neuron_id, "tuning", plain_words.of_tuning(frequency, rate, sentence))


def _said(value: float) -> str:
    """Three digits of a value."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")
