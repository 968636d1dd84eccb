"""Pages of data sets, classes and clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from html import escape

import duckdb
import jinja2
from markupsafe import Markup

from report import captions, charts
from report.cards import Cards
from report.clusters import StudyClusters
from report.contents import Contents, Dataset, Study
from report.facts import StudyFacts, chances
from report.media import Media
from report.specificity import StudySpecificity, of_class
from report.svg import number
from report.texts import cut

CARDS = 60
NEURONS = 30
SIBLINGS = 12
HIGH = 20
CAPTION = 2000
"""Characters of a caption."""


def datasets(
    con: duckdb.DuckDBPyConnection, contents: Contents, template: jinja2.Template, footers: Mapping[int, Markup]
) -> Iterator[tuple[str, str]]:
    """Pages of all data sets."""
    for dataset in contents.datasets:
        seconds, shortest, longest, rates, folds, failures = con.execute(
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
        yield dataset.page, template.render(
            title=dataset.name, root="../" * dataset.page.count("/"), provenance=footers[dataset.run_id], dataset=dataset,
            measures=measures, failures=failures, studies=[s for s in contents.studies if s.dataset is dataset],
            label_sets=[(name, [dataset.classes[c] for c in members]) for name, members in dataset.label_sets.items()],
        )  # fmt: skip


def classes(
    contents: Contents,
    facts: list[StudyFacts],
    clusters: list[StudyClusters],
    specificity: list[StudySpecificity],
    media: Media,
    template: jinja2.Template,
    footers: Mapping[int, Markup],
) -> Iterator[tuple[str, str]]:
    """Pages of all classes."""
    for dataset in contents.datasets:
        heard = [(study, known) for study, known in zip(contents.studies, facts, strict=True) if study.dataset is dataset]
        groups = [its for study, its in zip(contents.studies, clusters, strict=True) if study.dataset is dataset]
        specific = [its for study, its in zip(contents.studies, specificity, strict=True) if study.dataset is dataset]
        chance = chances(dataset)
        cards = Cards(dataset, dataset.views[0], media, dataset.folder.count("/") + 3)
        for members in dataset.label_sets.values():
            for at, class_id in enumerate(members):
                cls = dataset.classes[class_id]
                rows = {f"s{i}": _best_by_layer(study, known, class_id, cards.root) for i, (study, known) in enumerate(heard)}
                detectors = [
                    (study, [(study.layer_of(row.neuron_id), row) for row in known.classes.get(class_id, [])]) for study, known in heard
                ]
                paths = [its.paths.get(class_id, []) for its in groups]
                sources = dict.fromkeys(run_id for its, path in zip(groups, paths, strict=True) if path for run_id in its.runs)
                sources |= dict.fromkeys(its.run_id for its in specific if class_id in its.by_class and its.run_id is not None)
                provenance = Markup("<br>").join([_join(dataset, heard, footers), *(footers[run_id] for run_id in sources)])
                yield cls.page, template.render(
                    title=cls.name, root=cards.root, provenance=provenance, paths=paths, dataset=dataset, cls=cls, number=number,
                    view=dataset.views[0], chance=chance[class_id], detectors=detectors,
                    specific=[of_class(its, study, class_id, cards.root) for (study, _), its in zip(heard, specific, strict=True)],
                    cards=Markup("".join([cards.card(clip_id) for clip_id in cls.clips[:CARDS]])),
                    rest=[dataset.clips[c] for c in cls.clips[CARDS:]],
                    previous=dataset.classes[members[at - 1]] if at else None,
                    following=dataset.classes[members[at + 1]] if at + 1 < len(members) else None,
                    **({"curves": rows, "charts": Markup(charts.rows_script(**rows))} if rows else {}),
                )  # fmt: skip


def _join(dataset: Dataset, heard: list[tuple[Study, StudyFacts]], footers: Mapping[int, Markup]) -> Markup:
    """Footers of a data set's run and of the runs that heard it."""
    return Markup("<br>").join([footers[dataset.run_id], *(footers[study.run_id] for study, _ in heard)])


def _best_by_layer(study: Study, facts: StudyFacts, class_id: int, root: str) -> list[dict]:
    found = {layer_id: (neuron_id, ap) for layer_id, neuron_id, ap in facts.best_by_layer.get(class_id, [])}
    rows = []
    for position, layer in enumerate(study.layers):
        if layer.layer_id in found:
            neuron_id, ap = found[layer.layer_id]
            rows.append({
                "layer": layer.name, "position": position, "series": study.title, "label": layer.title(neuron_id), "value": round(ap, 5),
                "href": f"{root}{layer.folder}/{layer.file(neuron_id)}",
            })  # fmt: skip
    return rows


def clips(
    con: duckdb.DuckDBPyConnection,
    contents: Contents,
    facts: list[StudyFacts],
    media: Media,
    template: jinja2.Template,
    footers: Mapping[int, Markup],
) -> Iterator[tuple[str, str]]:
    """Pages of all clips."""
    for dataset in contents.datasets:
        heard = [(study, known) for study, known in zip(contents.studies, facts, strict=True) if study.dataset is dataset]
        moved = [(study, known, *_moved(con, study)) for study, known in heard]
        details = {row[0]: row[1:] for row in con.execute(
            """SELECT clip_id, sample_rate_hz, channels, rms_dbfs, peak_dbfs, median_frequency_hz, silence_share, fold, source_group
               FROM clip WHERE dataset_id = ?""", [dataset.dataset_id]).fetchall()}  # fmt: skip
        groups: dict[str, list[int]] = defaultdict(list)
        for clip_id, row in details.items():
            if row[7] is not None:
                groups[row[7]].append(clip_id)
        cards = Cards(dataset, dataset.views[0], media, dataset.folder.count("/") + 2)
        captioned = captions.of_dataset(con, dataset)
        provenance = Markup("<br>").join([_join(dataset, heard, footers), *(footers[run_id] for run_id, _, _ in captioned)])
        order = list(dataset.clips.values())
        for at, clip in enumerate(order):
            labels: dict[str, list[str]] = defaultdict(list)
            for class_id in clip.classes:
                cls = dataset.classes[class_id]
                labels[cls.label_set].append(f'<a href="{cards.root}{cls.page}">{escape(cls.name)}</a>')
            siblings = [c for c in groups.get(details[clip.clip_id][7], []) if c != clip.clip_id][:SIBLINGS]
            view = dataset.views[0]
            neurons = []
            for study, known, rows, counts in moved:
                if clip.clip_id in rows:
                    found = [
                        (layer := study.layer_of(n), n, rank, value, z, dataset.class_of(known.of(layer, n).class_id))
                        for n, rank, value, z in rows[clip.clip_id]
                    ]
                    neurons.append((study, found, counts[clip.clip_id]))
            said = [(captioner, cut(texts[clip.clip_id], CAPTION)) for _, captioner, texts in captioned if clip.clip_id in texts]
            yield clip.page, template.render(
                title=clip.title, said=said, root=cards.root, provenance=provenance, dataset=dataset, clip=clip, view=view, number=number, high=HIGH,
                labels=[(name, Markup(", ".join(links))) for name, links in labels.items()], missing=media.missing.get(clip.stem),
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


def _measures(clip, row: tuple) -> list[tuple[str, object]]:
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
