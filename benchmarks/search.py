"""Does the search of an atlas find what people mean? Thirty queries in an atlas of YAMNet on ESC-50, by its own search and by another atlas's.

    python -m benchmarks.search WAREHOUSE SITE [BEFORE]

WAREHOUSE holds YAMNet on ESC-50 with measured descriptions and tuning, SITE is its atlas, BEFORE one that an earlier revision made of it. Each query of
benchmarks/search_queries.toml, which also says what should come, is typed into the search of headless Chromium. Writes benchmarks/results/search.json: by
query the share found in the first ten results, and in the first ten that are classes or neurons; means,
fifteen later queries apart; kilobytes and milliseconds of the search.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from statistics import fmean, median
from urllib.parse import unquote

from report import contents
from tests.report.chromium import Chromium
from warehouse.store import connect_readonly

HERE = Path(__file__).parent
FIRST = 10
FACTS = """
    SELECT neuron_id, name AS output, best_class, ap, coalesce(rule, []) AS rule, tuned.* EXCLUDE (neuron_id)
    FROM neuron
    LEFT JOIN (SELECT neuron_id, arg_max(class.name, average_precision) AS best_class, max(average_precision) AS ap
               FROM class_activation JOIN class USING (class_id) JOIN label_set USING (label_set_id)
               WHERE label_set.name = 'category' AND reduction = 'mean' GROUP BY neuron_id) USING (neuron_id)
    LEFT JOIN (SELECT neuron_id, list(property || ' ' || direction) AS rule FROM rule_condition GROUP BY neuron_id) USING (neuron_id)
    LEFT JOIN (SELECT neuron_id, frequency_hz, rate_hz, direction FROM v_tuning) AS tuned USING (neuron_id)"""


def expected(warehouse: Path) -> tuple[list[dict], dict[str, str]]:
    """The queries with what should come, and what each page is: a class or a neuron of any study."""
    queries = tomllib.loads((HERE / "search_queries.toml").read_text("utf-8"))["query"]
    with connect_readonly(warehouse) as con:
        shown = contents.read(con)
        for query in queries:
            where = query.get("neurons", "false")
            rows = con.execute(f"SELECT neuron_id FROM ({FACTS}) WHERE {where}").fetchall()
            query["wanted"] = {f"class {name}" for name in query.get("classes", ())} | {f"neuron {neuron_id}" for (neuron_id,) in rows}
    pages = {c.page: f"class {c.name}" for dataset in shown.datasets for c in dataset.classes.values()}
    for study in shown.studies:
        for layer in study.by_first:
            pages |= {f"{layer.folder}/{layer.file(neuron_id)}": f"neuron {neuron_id}" for neuron_id in layer.ids}
    return queries, pages


def share(found: list[str], wanted: set[str]) -> float:
    """How many of those that should come are among the first ten, as a share of as many as could be."""
    return len(set(found[:FIRST]) & wanted) / min(FIRST, len(wanted))


def searched(chromium: Chromium, site: Path, text: str) -> tuple[list[tuple[str, str]], float]:
    """Addresses and texts of what a query finds in an atlas, in order, and the milliseconds it took."""
    chromium.js("box = document.getElementById('q'); box.focus(); box.value = ''; box.dispatchEvent(new Event('input'))")
    ms = chromium.js(
        f"(t => {{ box.value = {json.dumps(text)}; box.dispatchEvent(new Event('input')); return performance.now() - t }})(performance.now())"
    )
    hits = chromium.js("[...document.querySelectorAll('#hits a')].map(a => [a.href, a.textContent])")
    return [(unquote(href).removeprefix(unquote(site.resolve().as_uri()) + "/"), said) for href, said in hits], ms


def main() -> None:
    """Measure, print, write."""
    warehouse, *sites = map(Path, sys.argv[1:])
    queries, pages = expected(warehouse)
    rows: list[dict] = [{"query": query["text"], "wanted": len(query["wanted"]), "later": query.get("later", False)} for query in queries]
    summary: dict[str, dict] = {}
    with Chromium() as browser:
        for name, site in zip(("now", "before"), sites, strict=False):
            chromium = browser.fresh()
            chromium.open(site / "index.html")
            chromium.js("document.getElementById('q').focus()")
            chromium.until("window.AURICLE_SEARCH !== undefined")
            chromium.js("new Promise(done => setTimeout(done, 1000))")
            searched(chromium, site, "warm")
            times = []
            for row, query in zip(rows, queries, strict=True):
                hits, ms = searched(chromium, site, query["text"])
                found = list(dict.fromkeys(pages.get(href, href) for href, _ in hits))
                row[name] = round(share(found, query["wanted"]), 2)
                row[f"{name}, of classes and neurons"] = round(
                    share([f for f in found if f.startswith(("class ", "neuron "))], query["wanted"]), 2
                )
                if name == "now":
                    row["first"] = [said for _, said in hits[:3]]
                times.append(ms)
            files = [site / file for file in ("search.js", "related.js") if (site / file).exists()]
            its = [row for row in rows if not row["later"]]
            summary[name] = {
                "found in the first ten": round(fmean(row[name] for row in its), 3),
                "in the first ten classes and neurons": round(fmean(row[f"{name}, of classes and neurons"] for row in its), 3),
                "queries with anything found": sum(row[name] > 0 for row in its),
                "found in the first ten, later queries": round(fmean(row[name] for row in rows if row["later"]), 3),
                "kB": {file.name: round(file.stat().st_size / 1000) for file in files}, "ms": round(median(times), 1),
            }  # fmt: skip
            print(name, json.dumps(summary[name]))
    for row in rows:
        print(f"{row['query']:24} {row['wanted']:6} {row.get('before', ''):6} {row['now']:6}  {' | '.join(row['first'])[:200]}")
    (HERE / "results" / "search.json").write_text(json.dumps(summary | {"queries": rows}, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
