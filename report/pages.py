"""Pages of the overview, of networks and of layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from statistics import fmean

import jinja2
from markupsafe import Markup

from report import charts, svg
from report.ablations import StudyAblations, importance_rows, way
from report.cards import Cards, listen
from report.clusters import StudyClusters, box_rows, rows
from report.concepts import adjective_rows, top_adjectives
from report.contents import Class, Contents, Layer, Study
from report.facts import ClassNeuron, NeuronFacts, StudyFacts
from report.interventions import StudyInterventions
from report.language import StudyLanguage
from report.media import Media
from report.neurons import REDUCTIONS
from report.polysemanticity import K
from report.polysemanticity import chart_rows as polysemanticity_rows
from report.probes import SERIES, StudyProbes, chart_rows, name_of, task_rows
from report.specific_ablations import StudySpecificAblations
from report.specific_ablations import chart_rows as specific_rows
from report.specificity import StudySpecificity
from report.specificity import chart_rows as specificity_rows
from report.svg import number

GALLERY = 12


@dataclass
class LayerNumbers:
    """A layer in numbers: dead neurons, means over its living ones, and its best detector of any class of the main label set."""

    layer: Layer
    dead: int = 0
    active: float | None = None
    selectivity: float | None = None
    mean_best: float | None = None
    best: float | None = None
    best_fact: NeuronFacts | None = None
    best_class: str = ""


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def layer_numbers(study: Study, facts: StudyFacts) -> list[LayerNumbers]:
    """Numbers of all layers; those without pages keep their blanks."""
    main = next(iter(study.dataset.label_sets.values()), [])
    best: dict[int, list[float]] = {}
    for class_id in main:
        for layer_id, _, ap in facts.best_by_layer.get(class_id, []):
            best.setdefault(layer_id, []).append(ap)
    out = []
    for layer in study.layers:
        row = LayerNumbers(layer)
        if layer.has_pages:
            found = facts.layers[layer.layer_id]
            living = [f for f in found if not f.is_dead]
            row.dead = len(found) - len(living)
            row.active = _mean([f.share_active for f in found])
            row.selectivity = _mean([f.selectivity for f in living])
            row.mean_best = _mean([*best.get(layer.layer_id, [])])
            detectors = [f for f in living if f.average_precision is not None]
            if detectors:
                row.best_fact = max(detectors, key=lambda f: f.average_precision or 0)
                row.best = row.best_fact.average_precision
                best_class = study.dataset.class_of(row.best_fact.class_id)
                row.best_class = best_class.name if best_class else ""
        out.append(row)
    return out


def _layer_rows(study: Study, numbers: list[LayerNumbers], root: str) -> dict[str, list[dict]]:
    """Rows of the three charts over layers."""
    shown = [n for n in numbers if n.layer.has_pages]
    last = max(1, len(shown) - 1)
    rows: dict[str, list[dict]] = {"detect": [], "selectivity": [], "dead": []}
    any_dead = any(n.dead for n in shown)  # a line at 0 says less than no chart
    for i, n in enumerate(shown):
        values = {"detect": n.mean_best, "selectivity": n.selectivity, "dead": n.dead / n.layer.neurons}
        for name, value in values.items():
            if value is not None and (name != "dead" or any_dead):
                rows[name].append({
                    "layer": n.layer.name, "position": i, "depth": round(i / last, 4), "series": study.title, "label": n.layer.name,
                    "value": round(value, 5), "href": root + n.layer.page,
                })  # fmt: skip
    return rows


def overview(
    contents: Contents, facts: list[StudyFacts], clusters: list[StudyClusters], media: Media, template: jinja2.Template, provenance: str
) -> Iterator[tuple[str, str]]:
    """The first page."""
    rows: dict[str, list[dict]] = {"detect": [], "selectivity": [], "dead": []}
    totals = []
    for study, known in zip(contents.studies, facts, strict=True):
        numbers = layer_numbers(study, known)
        totals.append({"neurons": sum(layer.neurons for layer in study.layers), "dead": sum(n.dead for n in numbers)})
        for name, found in _layer_rows(study, numbers, "").items():
            rows[name] += found
    names = [f"{study.name}" for study in contents.studies]
    context = {"charts": Markup(charts.rows_script(**rows))} if contents.studies else {}
    yield "index.html", template.render(
        title="Auricle", root="", provenance=provenance, studies=contents.studies, datasets=contents.datasets, totals=totals,
        neurons=sum(t["neurons"] for t in totals), names=_listed(list(dict.fromkeys(names))),
        clusters=sum(len(found) for known in clusters for found in known.layers.values()), curves=rows,
        gallery=(gallery := _gallery(contents, facts, media)), gallery_of=gallery.count("<li"), **context,
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}" if names else ""


def _gallery(contents: Contents, facts: list[StudyFacts], media: Media) -> Markup:
    """The showpiece of each class with its highest clip, of the first study; best first, no neuron twice."""
    if not contents.studies:
        return Markup()
    study, known = contents.studies[0], facts[0]
    cards = Cards(study.dataset, study.view, media, 0)
    main = next(iter(study.dataset.label_sets.values()), [])
    pieces = [(c, piece) for c in main if (piece := known.showpiece(study, c))]
    best = sorted(((piece.average_precision or 0, -c, piece.neuron_id) for c, piece in pieces), reverse=True)
    texts: list[str] = []
    seen = set()
    for ap, minus_class, neuron_id in best:
        layer = study.layer_of(neuron_id)
        fact = known.of(layer, neuron_id)
        if neuron_id in seen or fact.clip_id is None or len(texts) == GALLERY:
            continue
        seen.add(neuron_id)
        link = f'<a href="{layer.folder}/{layer.file(neuron_id)}">{escape(layer.title(neuron_id))}</a>'
        value = f"<b>{link} detects {escape(study.dataset.classes[-minus_class].name)}, AP {number(ap)}</b>"
        texts.append(cards.card(fact.clip_id, value, *known.courses.get(neuron_id, ("", 0))))
    return Markup("".join(texts))


def network(
    contents: Contents,
    study: Study,
    facts: StudyFacts,
    disturbed: StudyInterventions,
    groups: StudyClusters,
    all_probes: list[StudyProbes],
    words: StudyLanguage,
    ablations: StudyAblations,
    specific: StudySpecificAblations,
    specificity: StudySpecificity,
    template: jinja2.Template,
    footers: Mapping[int, Markup],
) -> Iterator[tuple[str, str]]:
    """A study's page."""
    root = "../" * study.page.count("/")
    numbers = layer_numbers(study, facts)
    class_rows = {name: _class_rows(study, facts, members) for name, members in study.dataset.label_sets.items() if members}
    rows = _layer_rows(study, numbers, root)
    probed = all_probes[contents.studies.index(study)]
    probes = [probed.layers[layer.layer_id] for layer in study.layers if layer.layer_id in probed.layers]
    same = [(other, its) for other, its in zip(contents.studies, all_probes, strict=True) if other.name == study.name and its.layers]
    more = {
        "probes": chart_rows(probed, study, root),
        "tasks": task_rows(same, root) if len(same) > 1 else [],
        "adjectives": adjective_rows(words.concepts, study, words.descriptions, root),
        "polysemanticity": polysemanticity_rows(words.polysemanticity, study, root),
        "importance": importance_rows(ablations),
        "specific_ablations": specific_rows(specific, root),
        "specificity": specificity_rows(specificity, study, root),
    }
    more |= {f"entropies_{kind}": box_rows(groups, root, positions=kind == "positions") for kind in ("channels", "positions")}
    more = {name: found for name, found in more.items() if found}
    named = [row["run_id"] for row in words.dissections.outputs]
    sources = [
        study.run_id,
        probed.run_id,
        *groups.runs,
        disturbed.run_id,
        *words.runs,
        *named,
        ablations.run_id,
        specificity.run_id,
        *specific.runs,
    ]
    yield study.page, template.render(
        title=study.title, root=root,
        provenance=_joined(footers, *sources),
        study=study, dataset=study.dataset, layers=numbers, number=number,
        total=sum(layer.neurons for layer in study.layers), class_rows=class_rows, curves=rows,
        others=[other for other in contents.studies if other.name == study.name and other is not study],
        probes=probes, series=SERIES, name_of=name_of, disturbed=disturbed, words=words, ablations=ablations, way=way, k=K,
        specific=specific, specificity=specificity,
        compared=[other for other, _ in same], more=more, charts=Markup(charts.rows_script(**rows, **more)),
    )  # fmt: skip


def _joined(footers: Mapping[int, Markup], *runs: int | None) -> Markup:
    """Footers of runs, those that there are."""
    return Markup("<br>").join([footers[run_id] for run_id in dict.fromkeys(runs) if run_id is not None])


def _class_rows(study: Study, facts: StudyFacts, members: list[int]) -> list[tuple[Class, Layer | None, ClassNeuron | None]]:
    """Classes with their best detector, best detected first."""
    rows: list[tuple[Class, Layer | None, ClassNeuron | None]] = []
    for class_id in members:
        best = next(iter(facts.classes.get(class_id, [])), None)
        if best and best.average_precision is None:
            best = None
        rows.append((study.dataset.classes[class_id], study.layer_of(best.neuron_id) if best else None, best))
    return sorted(rows, key=lambda row: -(row[2].average_precision or 0 if row[2] else -1))


def layers(
    study: Study,
    facts: StudyFacts,
    groups: StudyClusters,
    probed: StudyProbes,
    words: StudyLanguage,
    media: Media,
    template: jinja2.Template,
    footers: Mapping[int, Markup],
) -> Iterator[tuple[str, str]]:
    """Pages of a study's layers."""
    numbers = layer_numbers(study, facts)
    for at, layer in enumerate(study.layers):
        root = "../" * layer.page.count("/")
        context: dict = {}
        if layer.has_pages:
            found = facts.layers[layer.layer_id]
            starts = words.descriptions.starts if layer.layer_id in words.descriptions.layers else None
            context = {
                "rows": Markup("".join([_neuron_row(study, layer, fact, root, media, starts) for fact in found])),
                "points": (points := [_point(study, layer, f) for f in found if f.average_precision is not None]),
                "signed": all(point["selectivity"] is None for point in points),
                "charts": Markup(charts.rows_script(neurons=points)),
            }
        clusters = groups.layers.get(layer.layer_id, [])
        probe = probed.layers.get(layer.layer_id)
        sources = [study.run_id] if layer.has_pages or not clusters else []
        sources += [cluster.run_id for cluster in clusters[:1]] + ([probed.run_id] if probe and probed.run_id is not None else [])
        described = words.descriptions.described.get(layer.layer_id) if layer.layer_id in words.descriptions.layers else None
        sources += [words.descriptions.run_id] if described is not None and words.descriptions.run_id is not None else []
        shape = " × ".join(map(str, json.loads(layer.shape)))
        yield layer.page, template.render(
            title=f"{layer.name} of {study.title}", root=root, provenance=_joined(footers, *sources), study=study, dataset=study.dataset, layer=layer,
            numbers=numbers[at], number=number, shape=shape, reduction=REDUCTIONS.get(layer.reduction, layer.reduction).capitalize(),
            clusters=rows(clusters, study, root, media), chosen=len(groups.chosen(layer)), probe=probe, name_of=name_of,
            described=described, adjectives=top_adjectives(words.concepts, layer, root),
            previous=study.layers[at - 1] if at else None,
            following=study.layers[at + 1] if at + 1 < len(study.layers) else None, **context,
        )  # fmt: skip


def _point(study: Study, layer: Layer, fact: NeuronFacts) -> dict:
    best = study.dataset.class_of(fact.class_id)
    return {
        "neuron": layer.title(fact.neuron_id), "best": best.name if best else None, "active": fact.share_active,
        "ap": round(fact.average_precision or 0, 4), "selectivity": fact.selectivity and round(fact.selectivity, 4),
        "href": layer.file(fact.neuron_id),
    }  # fmt: skip


def _neuron_row(study: Study, layer: Layer, fact: NeuronFacts, root: str, media: Media, starts: dict[int, str] | None) -> str:
    """A neuron's row in its layer's table; `starts` are descriptions, None in a layer without any."""
    unit, name = layer.units[fact.neuron_id - layer.first], layer.names[fact.neuron_id - layer.first]
    label = f"{unit} {escape(name)}" if name is not None else str(unit)
    sound = "" if fact.is_dead else listen(study, fact.clip_id, root, media)
    best = study.dataset.class_of(fact.class_id)
    ap, active = fact.average_precision, "–" if fact.share_active is None else f"{100 * fact.share_active:.1f} %"
    says = "" if starts is None else f'<td class="find">{escape(starts.get(fact.neuron_id, "–"))}</td>'
    return (
        f'<tr><th><a href="{layer.file(fact.neuron_id)}">{label}</a></th><td>{sound}</td>'
        f"<td>{escape(best.name) if best else 'dead' if fact.is_dead else '–'}</td>"
        f'<td class="n bar" style="--v:{100 * (ap or 0):.0f}%">{number(ap)}</td><td class="n">{number(fact.selectivity)}</td>'
        f'<td class="n">{active}</td><td class="n">{number(fact.mean)}</td>'
        f'<td class="n">{number(fact.maximum)}</td><td>{svg.spark(fact.histogram) if fact.histogram else ""}</td>{says}</tr>'
    )
