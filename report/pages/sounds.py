"""Pages of data sets, classes and clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

import duckdb
from markupsafe import Markup

from report.contents import Clip, Contents, Dataset, Study
from report.parts import charts
from report.parts.cards import Cards
from report.parts.page import Press
from report.topics.topic import Known, Topic, by_place
from report.topics.tuning import Tuning

CARDS = 60
NEURONS = 30
SIBLINGS = 12
HIGH = 20


def datasets(press: Press, contents: Contents) -> Iterator[tuple[str, str]]:
    """Pages of all data sets."""
    for dataset in contents.datasets:
        seconds, shortest, longest, rates, folds, failures = press.con.execute(
            """SELECT coalesce(sum(duration_s), 0), min(duration_s), max(duration_s), list(DISTINCT sample_rate_hz ORDER BY sample_rate_hz),
                   count(DISTINCT fold), (SELECT count(*) FROM failure WHERE run_id = $run) FROM clip WHERE dataset_id = $dataset""",
            {"run": dataset.run_id, "dataset": dataset.dataset_id},
        ).fetchall()[0]
        measures = [("Clips", f"{len(dataset.clips):,}"), ("Sound", f"{seconds / 60:.1f} min")]
        if shortest is not None:
            measures += [("Length", f"{shortest:.2f} s" + (f" to {longest:.2f} s" if f"{longest:.2f}" != f"{shortest:.2f}" else ""))]
            measures += [("Sample rates", ", ".join(f"{r / 1000:g}" for r in rates[:6]) + (" …" if len(rates) > 6 else "") + " kHz")]
        if folds:
            measures.append(("Folds", str(folds)))
        measures += [("Content", Markup("<code>{}</code>").format(dataset.content_sha256[:12])), ("Reader", dataset.reader)]
        yield press.page(dataset.page).write(
            "dataset", [dataset.run_id], title=dataset.name, dataset=dataset, measures=measures, failures=failures,
            studies=[s for s in contents.studies if s.dataset is dataset],
            label_sets=[(name, [dataset.classes[c] for c in members]) for name, members in dataset.label_sets.items()],
        )  # fmt: skip


def classes(press: Press, dataset: Dataset, heard: Sequence[Known]) -> Iterator[tuple[str, str]]:
    """Pages of a data set's classes; `heard` are the studies on it."""
    chance = dataset.chances
    cards = Cards(dataset, dataset.views[0], press.media, dataset.folder.count("/") + 3)
    for members in dataset.label_sets.values():
        for at, class_id in enumerate(members):
            cls = dataset.classes[class_id]
            page = press.page(cls.page)
            rows = {f"s{i}": _best_by_layer(known, class_id, page.root) for i, known in enumerate(heard)}
            said = [[list(topic.of_class(page, cls)) for topic in known] for known in heard]
            # Runs are named topic by topic, each of all studies.
            runs = [run for topic in zip(*said, strict=True) for parts in topic for part in parts for run in part.runs]
            yield page.write(
                "class", [dataset.run_id, *(known.study.run_id for known in heard), *runs],
                title=cls.name, dataset=dataset, cls=cls, view=dataset.views[0], chance=chance[class_id],
                studies=[
                    (known.study, [(known.study.layer_of(row.neuron_id), row) for row in known[Tuning].classes.get(class_id, [])],
                     by_place((part for parts in its for part in parts), "detectors"))
                    for known, its in zip(heard, said, strict=True)
                ],
                cards=Markup("".join([cards.card(clip_id) for clip_id in cls.clips[:CARDS]])),
                rest=[dataset.clips[c] for c in cls.clips[CARDS:]],
                previous=dataset.classes[members[at - 1]] if at else None,
                following=dataset.classes[members[at + 1]] if at + 1 < len(members) else None,
                **({"curves": rows, "charts": Markup(charts.rows_script(**rows))} if rows else {}),
            )  # fmt: skip


def _best_by_layer(known: Known, class_id: int, root: str) -> list[dict]:
    found = {layer_id: (neuron_id, ap) for layer_id, neuron_id, ap in known[Tuning].best_by_layer.get(class_id, [])}
    rows = []
    for position, layer in enumerate(known.study.layers):
        if layer.layer_id in found:
            neuron_id, ap = found[layer.layer_id]
            rows.append({
                "layer": layer.name, "position": position, "series": known.study.title, "label": layer.title(neuron_id), "value": round(ap, 5),
                "href": f"{root}{layer.folder}/{layer.file(neuron_id)}",
            })  # fmt: skip
    return rows


def clips(
    press: Press, topics: Sequence[type[Topic]], dataset: Dataset, heard: Sequence[Known], *, all_clips: bool
) -> Iterator[tuple[str, str]]:
    """Pages of a data set's clips; `heard` are the studies on it. Clips have sounds and pictures that other pages show, or all of them."""
    if not dataset.clips:
        return
    moved = [(known, *_moved(press.con, known.study)) for known in heard]
    details = {row[0]: row[1:] for row in press.con.execute(
        """SELECT clip_id, sample_rate_hz, channels, rms_dbfs, peak_dbfs, median_frequency_hz, silence_share, fold, source_group, mean_amplitude
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
        heard_of = all_clips or press.media.has(clip)
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
            "clip", runs, title=clip.title, dataset=dataset, clip=clip, view=view, high=HIGH,
            at=by_place((part for parts in said for part in parts.of.get(clip.clip_id, ())), "captions"),
            labels=[(name, Markup(", ".join(links))) for name, links in labels.items()],
            unheard=not heard_of, missing=press.media.want(clip, view) if heard_of else None,
            start=start if (start := clip.start_s(view.clip_s)) >= 0.01 else 0,
            picture=Markup(cards.picture(clip.clip_id)), player=Markup(cards.player(clip.clip_id)),
            ticks=[f"{view.clip_s * i / 5:g} s" for i in range(6)], measures=_measures(clip, details[clip.clip_id]), neurons=neurons,

            siblings=Markup("".join([cards.card(c) for c in siblings if all_clips or press.media.has(dataset.clips[c])])),
            others=[dataset.clips[c] for c in siblings if not all_clips and not press.media.has(dataset.clips[c])], previous=order[at - 1] if at else None,
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
    rate, channels, rms, peak, frequency, silence, fold, group, amplitude = row
    out: list[tuple[str, object]] = [
        ("Length", f"{clip.duration_s:.2f} s"),
        ("File", f"{rate / 1000:g} kHz, {'mono' if channels == 1 else 'stereo' if channels == 2 else f'{channels} channels'}"),
        ("Level", "digital silence" if rms is None else f"{rms:.1f} dBFS RMS".replace("-", "−")),
    ]
    if peak is not None:
        out.append(("Peak", f"{peak:.1f} dBFS".replace("-", "−")))
    if amplitude is not None:
        out.append(("Mean amplitude", f"{amplitude:.3g}"))
    if frequency is not None:
        out.append(("Median frequency", f"{frequency:,.0f} Hz"))
    out.append(("Silence", f"{100 * silence:.0f} %"))
    if fold is not None:
        out.append(("Fold", fold))
    if group is not None:
        out.append(("Recording", group))
    return [*out, ("Name", clip.name), ("SHA-256", Markup('<code title="{}">{}</code>').format(clip.sha256, clip.sha256[:12]))]
