"""What captioners say of clips, on the pages of clips and under their cards."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from html import escape

import duckdb
from markupsafe import Markup

from report.contents import Dataset, Layer
from report.parts.page import Page
from report.parts.search_index import Index
from report.parts.texts import cut
from report.topics.descriptions import Descriptions
from report.topics.dissections import Dissections
from report.topics.polysemanticity import Polysemanticity
from report.topics.rules import Rules
from report.topics.topic import Known, Part, Parts, Topic

LONGEST = 2000
"""Characters of a caption."""


class Captions(Topic):
    """The captions that a study's descriptions follow from, or without any its dissections or polysemanticity, by clip."""

    def read(self) -> None:
        """Read a study's captions."""
        named = self.known[Dissections].named
        followers = [self.known[Descriptions].run_id, *named, self.known[Polysemanticity].run_id]
        self.texts: dict[int, str] = {}
        caption_run = None
        for run_id in followers:
            if run_id is not None and caption_run is None:
                [(parameters,)] = self.con.execute("SELECT parameters FROM run WHERE run_id = ?", [run_id]).fetchall()
                rows = self.con.execute(
                    "SELECT run_id FROM run WHERE stage = 'captions' AND run_key = ?", [json.loads(parameters).get("captions")]
                ).fetchall()
                caption_run = rows[0][0] if rows else None
        if caption_run is not None and not self.known[Rules].acoustic_captions:  # cards then have the properties themselves
            self.texts = _of_run(self.con, caption_run)
        # Pages name the captions' run among those that follow from it, in the order of their numbers.
        self.runs = sorted({run_id for run_id in (caption_run, *followers) if run_id is not None})

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Nothing but their run: the cards have the captions."""
        return Parts(runs=self.runs)

    @classmethod
    def clips(cls, page: Page, dataset: Dataset, heard: Sequence[Known]) -> Parts:
        """Captions of each captioner's latest finished run on a data set as it stands there."""
        runs = _runs(page.con, dataset)
        out: dict[int, str] = defaultdict(str)
        for run_id, captioner in runs:
            by = f'<span class="note">caption by {escape(captioner or "captioner")}</span></p>\n'
            for clip_id, text in _of_run(page.con, run_id).items():
                out[clip_id] += f'<p class="quote">{escape(cut(text, LONGEST))} {by}'
        return Parts({clip_id: [Part(Markup(text), "captions")] for clip_id, text in out.items()}, [run_id for run_id, _ in runs])

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Words of the captions of clips."""
        for con, dataset in {known.study.dataset.dataset_id: (known.con, known.study.dataset) for known in studies}.values():
            for run_id, _ in _runs(con, dataset):
                for clip_id, text in _of_run(con, run_id).items():
                    index.hear(dataset, clip_id, text[:LONGEST])


def _runs(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> list[tuple[int, str | None]]:
    """Each captioner's latest finished run on a data set as it stands there, with its name."""
    return con.execute(
        """SELECT run_id, parameters::JSON ->> 'captioner' AS captioner FROM run
           WHERE stage = 'captions' AND status = 'done' AND dataset_sha256 = ? AND parameters::JSON ->> 'dataset' = ?
           QUALIFY run_id = max(run_id) OVER (PARTITION BY captioner) ORDER BY run_id""",
        [dataset.content_sha256, dataset.name],
    ).fetchall()


def _of_run(con: duckdb.DuckDBPyConnection, run_id: int) -> dict[int, str]:
    """Captions of a run by clip."""
    return dict(con.execute("SELECT clip_id, text FROM caption WHERE run_id = ?", [run_id]).fetchall())
