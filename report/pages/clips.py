"""Pages of clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

import duckdb
from markupsafe import Markup

from report.contents import Clip, Dataset, Study
from report.parts.cards import Cards
from report.parts.page import Press
from report.topics.topic import Known, Topic, of_number
from report.topics.tuning import Tuning

NEURONS = 30
SIBLINGS = 12
HIGH = 20


def clips(press: Press, topics: Sequence[type[Topic]], dataset: Dataset, heard: Sequence[Known]) -> Iterator[tuple[str, str]]:
    """Pages of a data set's clips; `heard` are the studies on it."""
    if not dataset.clips:
        return
    moved = [(known, *_moved(press.con, known.study)) for known in heard]
    details = {row[0]: row[1:] for row in press.con.execute(
        """SELECT clip_id, sample_rate_hz, channels, rms_dbfs, peak_dbfs, median_frequency_hz, silence_share, fold, source_group
           FROM clip WHERE dataset_id = ?""", [dataset.dataset_id]).fetchall()}  # fmt: skip
    groups: dict[str, list[int]] = defaultdict(list)
    for clip_id, row in details.items():
        if row[7] is not None:
            groups[row[7]].append(clip_id)
    order, view = list(dataset.clips.values()), dataset.views[0]
    cards = Cards(dataset, view, press.media, order[0].page.count("/"))
    said = [topic.clips(press.page(order[0].page), dataset, heard) for topic in topics]
    runs = [dataset.run_id, *(known.study.run_id for known in heard), *(run for parts in said for run in parts.runs)]
    for at, clip in enumerate(order):
        labels: dict[str, list[str]] = defaultdict(list)
        for class_id in clip.classes:
            cls = dataset.classes[class_id]
            labels[cls.label_set].append(f'<a href="{cards.root}{cls.page}">{escape(cls.name)}</a>')
        siblings = [c for c in groups.get(details[clip.clip_id][7], []) if c != clip.clip_id][:SIBLINGS]
        neurons = []
        for known, rows, counts in moved:
            if clip.clip_id in rows:
                found = [
                    (layer := known.study.layer_of(n), n, rank, value, z, known[Tuning].best_class(layer, n))
                    for n, rank, value, z in rows[clip.clip_id]
                ]
                neurons.append((known.study, found, counts[clip.clip_id]))
        yield press.page(clip.page).write(
            "clip", runs, title=clip.title, at=of_number(clip.clip_id, said, "captions"), dataset=dataset, clip=clip, view=view, high=HIGH,
            labels=[(name, Markup(", ".join(links))) for name, links in labels.items()], missing=press.media.missing.get(clip.stem),
            start=start if (start := clip.start_s(view.clip_s)) >= 0.01 else 0,
            picture=Markup(cards.picture(clip.clip_id)), player=Markup(cards.player(clip.clip_id)),
            ticks=[f"{view.clip_s * i / 5:g} s" for i in range(6)], measures=_measures(clip, details[clip.clip_id]), neurons=neurons,
            siblings=Markup("".join([cards.card(c) for c in siblings])), previous=order[at - 1] if at else None,
            following=order[at + 1] if at + 1 < len(order) else None,
        )  # fmt: skip


def _moved(con: duckdb.DuckDBPyConnection, study: Study) -> tuple[dict[int, list[tuple]], dict[int, int]]:
    """By clip: the neurons it moves farthest above their mean among those it is a highest clip of, and the number of the latter."""
    shown = {layer.layer_id: layer.reduction for layer in study.by_first}
    if not shown:
        return {}, {}
    rows = con.execute(
        """SELECT clip_id, neuron_id, rank, activation, (activation - mean) / deviation AS z, count(*) OVER (PARTITION BY clip_id)
           FROM top_clip
           JOIN activation_summary USING (run_id, neuron_id, reduction) JOIN neuron USING (neuron_id)
           JOIN (SELECT unnest($layers) AS layer_id, unnest($reductions) AS reduction) AS shown USING (layer_id, reduction)
           WHERE run_id = $run AND side = 'high' AND rank <= $high AND deviation > 0
           QUALIFY row_number() OVER (PARTITION BY clip_id ORDER BY z DESC, neuron_id) <= $neurons
           ORDER BY clip_id, z DESC, neuron_id""",
        {"run": study.run_id, "layers": list(shown), "reductions": list(shown.values()), "high": HIGH, "neurons": NEURONS},
    ).fetchall()
    found: dict[int, list[tuple]] = defaultdict(list)
    counts = {}
    for clip_id, neuron_id, rank, value, z, count in rows:
        found[clip_id].append((neuron_id, rank, value, z))
        counts[clip_id] = count
    return found, counts


def _measures(clip: Clip, row: tuple) -> list[tuple[str, object]]:
    rate, channels, rms, peak, frequency, silence, fold, group = row
    out: list[tuple[str, object]] = [
        ("Length", f"{clip.duration_s:.2f} s"),
        ("File", f"{rate / 1000:g} kHz, {'mono' if channels == 1 else 'stereo' if channels == 2 else f'{channels} channels'}"),
        ("Level", "digital silence" if rms is None else f"{rms:.1f} dBFS RMS".replace("-", "−")),
    ]
    if peak is not None:
        out.append(("Peak", f"{peak:.1f} dBFS".replace("-", "−")))
    if frequency is not None:
        out.append(("Median frequency", f"{frequency:,.0f} Hz"))
    out.append(("Silence", f"{100 * silence:.0f} %"))
    if fold is not None:
        out.append(("Fold", fold))
    if group is not None:
        out.append(("Recording", group))
    return [*out, ("Name", clip.name), ("SHA-256", Markup('<code title="{}">{}</code>').format(clip.sha256, clip.sha256[:12]))]
