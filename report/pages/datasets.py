"""Pages of data sets."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from report.contents import Contents
from report.parts.page import Press


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
