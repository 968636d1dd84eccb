"""The rating page: people hear a neuron's highest clips, and others of its whole range, and say how well its description and its closed concepts fit
the highest (Audio Network Dissection, section 4.2, Table 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import soundfile as sf

from report import contents
from report.contents import Layer, Study, runs_of, scores_of
from report.folder import alone, replace
from report.media import audio_path, mp3, source_path
from report.parts.page import templates
from report.parts.texts import cut
from warehouse.store import UserError, connect_readonly

HERE = Path(__file__).parent
CLIPS = 5
RANGES = {
    "high": "These move it most",
    "middle": "These move it less and less",
    "near miss": "These are much like the first, but leave it cold",
    "low": "These move it least",
}
"""The ranges whose clips are played, as the page calls them; middle and near misses are known where descriptions were scored (table range_clip)."""
OTHERS = 3
"""Clips of each range but the highest."""
LONGEST = 2000
"""Characters of a description."""
PREFERRED = (("DB", "cosine_cubed"), ("TAB", "wpmi"))
"""Methods whose concepts are rated by default, and the function of each."""
GENERATOR = '<meta name="generator" content="Auricle rating">'


@dataclass(slots=True)
class Item:
    """A neuron to rate: its description, the sounds of its highest clips by the file they are written to, those of the rest of its range, by that
    range, and the texts to rate in the order in which they stand, each with whose it is (nobody's: the description)."""

    neuron_id: int
    run_id: int
    description: str
    sounds: dict[str, Path] = field(default_factory=dict)
    texts: list[tuple[list[str], str]] = field(default_factory=list)
    others: dict[str, dict[str, Path]] = field(default_factory=dict)

    @property
    def played(self) -> dict[str, Path]:
        """All sounds."""
        return {path: source for sounds in (self.sounds, *self.others.values()) for path, source in sounds.items()}

    @property
    def rest(self) -> list[tuple[str, list[str]]]:
        """The rest of the range in words, with its sounds."""
        return [(RANGES[name], list(self.others[name])) for name in RANGES if self.others.get(name)]


def build_rating(warehouse: Path, folder: Path, neurons: int, seed: int = 0, beside: Sequence[str] | None = None) -> Path:
    """Make a page to rate the descriptions of `neurons` neurons, drawn with `seed` evenly from the described layers of all networks.

    Beside each description, in an order drawn anew, stand the first concepts of what `beside` names (as in view v_said, such as DB wpmi); by
    default of one function each of DB and TAB, cosine_cubed and wpmi where they are there, the best of the paper's Table 7. Equal concepts are rated once.
    The page is `rating/index.html` in `folder`; `rating/` holds all it needs and can be sent to raters as it is. Nobody who rates sees what a
    neuron is, how clips are labelled or whose a text is. The answers it downloads are JSON: `rater`, `runs` (key by number of the runs of
    descriptions) and `answers`, each with `neuron_id`, `description_run_id`, `rating` of the description (1 to 5), `own_words` (a text or null) and,
    where any was rated, `concepts` (rating by whose it is). Returns the page's path. Raises UserError when there is nothing to rate or the
    folder cannot be written.
    """
    if neurons < 1:
        raise UserError(f"{neurons} descriptions cannot be rated: ask for 1 or more")
    with connect_readonly(warehouse) as con:
        items = draw(con, contents.read(con).studies, neurons, seed)
        add_texts(con, items, beside, seed)
        runs = sorted({item.run_id for item in items})
        keys = dict(con.execute("SELECT run_id, run_key FROM run WHERE list_contains(?, run_id)", [runs or [-1]]).fetchall())
    if not items:
        raise UserError(f"{warehouse} holds no described neuron whose sounds are there: ingest descriptions first")
    target = folder / "rating"
    page = target / "index.html"
    try:
        if page.is_file() and GENERATOR not in page.read_text("utf-8", "replace"):
            raise UserError(f"{page} was not made by Auricle and would be overwritten: name another folder with --site")
        with alone(target):
            (target / "audio").mkdir(parents=True, exist_ok=True)
            unreadable = _write_sounds(target, items)
            for item in items:
                item.sounds = {path: source for path, source in item.sounds.items() if path not in unreadable}
                for name, sounds in item.others.items():
                    item.others[name] = {path: source for path, source in sounds.items() if path not in unreadable}
            shown = [item for item in items if item.sounds]
            if not shown:
                raise UserError("none of the neurons' sounds can be read any more: ingest them again")
            kit = hashlib.sha256(repr([(keys[item.run_id], item.neuron_id, item.texts) for item in shown]).encode()).hexdigest()[:16]
            text = templates().get_template("rating.html.j2").render(items=shown, runs={str(run): keys[run] for run in runs}, kit=kit)
            replace(target / "style.css", (HERE / "static" / "style.css").read_bytes())
            replace(page, text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write the rating page: {error.strerror or error} ({error.filename or target})") from error
    return page


def add_texts(con: duckdb.DuckDBPyConnection, items: list[Item], beside: Sequence[str] | None, seed: int) -> None:
    """Set the texts of items. Raises UserError for concepts that no neuron of theirs has."""
    rows = con.execute(
        """SELECT description_run_id, neuron_id, said_by, text FROM v_said
           WHERE list_contains(?, description_run_id) AND list_contains(?, neuron_id) AND said_by <> 'description' ORDER BY ALL""",
        [sorted({item.run_id for item in items} or {-1}), [item.neuron_id for item in items] or [-1]],
    ).fetchall()
    known = sorted({row[2] for row in rows})
    if missing := [name for name in beside or () if name not in known]:
        raise UserError(
            f"no neuron to rate has a concept by {missing[0]}: there are {', '.join(known) or 'none, dissect the network first'}"
        )
    if beside is None:
        beside = [name for name in (_one_of(known, *preferred) for preferred in PREFERRED) if name]
    said: dict[tuple[int, int], dict[str, list[str]]] = {}
    for run_id, neuron_id, said_by, text in rows:
        if said_by in beside:
            said.setdefault((run_id, neuron_id), {}).setdefault(cut(text, LONGEST), []).append(said_by)
    random = np.random.default_rng(seed)
    for item in items:
        texts = [([], item.description), *((by, text) for text, by in said.get((item.run_id, item.neuron_id), {}).items())]
        item.texts = [texts[at] for at in random.permutation(len(texts))]


def _one_of(known: Sequence[str], method: str, function: str) -> str | None:
    """The concepts of a method: those of a function where they are known, else of another."""
    its = [name for name in known if name.split(" ")[0] == method]
    return f"{method} {function}" if f"{method} {function}" in its else next(iter(its), None)


def draw(con: duckdb.DuckDBPyConnection, studies: list[Study], neurons: int, seed: int) -> list[Item]:
    """Described neurons with sounds that are there, in random order: one of every layer in turn, until there are enough or none is left."""
    random = np.random.default_rng(seed)
    lines = []
    for study in studies:
        if runs := runs_of(con, study, "descriptions"):
            lines += [_candidates(con, study, layer, runs[0], random) for layer in study.by_first]
    items: list[Item] = []
    while lines:
        left = []
        for at in random.permutation(len(lines)):
            if len(items) == neurons:
                break
            if item := next(lines[at], None):
                items.append(item)
                left.append(lines[at])
        lines = left
    return [items[at] for at in random.permutation(len(items))]


def _candidates(con, study: Study, layer: Layer, run_id: int, random: np.random.Generator) -> Iterator[Item]:
    """A layer's described neurons with sounds, in random order."""
    rows = con.execute(
        """SELECT neuron_id FROM v_description WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND description IS NOT NULL ORDER BY 1""",
        [run_id, layer.first, layer.last],
    ).fetchall()
    scored = scores_of(con, run_id)
    for at in random.permutation(len(rows)):
        [neuron_id] = rows[at]
        [(text,)] = con.execute("SELECT description FROM v_description WHERE run_id = ? AND neuron_id = ?", [run_id, neuron_id]).fetchall()
        clips = con.execute(
            """SELECT 'high', clip_id, rank FROM top_clip WHERE run_id = $recorded AND neuron_id = $neuron AND reduction = $reduction AND side = 'high'
                 AND rank <= $clips AND NOT ($non_negative AND activation <= 0)
               UNION ALL SELECT range, clip_id, rank FROM range_clip WHERE neuron_id = $neuron AND rank <= $others AND run_id = $scored
               UNION ALL SELECT 'low', clip_id, rank FROM top_clip WHERE run_id = $recorded AND neuron_id = $neuron AND reduction = $reduction AND side = 'low'
                 AND rank <= $others
               ORDER BY rank""",
            {"recorded": study.run_id, "neuron": neuron_id, "reduction": layer.reduction, "clips": CLIPS, "non_negative": layer.non_negative,
             "others": OTHERS, "scored": scored},
        ).fetchall()  # fmt: skip
        item = Item(neuron_id, run_id, cut(text, LONGEST))
        for name in RANGES:
            for clip_id in (clip_id for range_, clip_id, _ in clips if range_ == name):
                clip = study.dataset.clips[clip_id]
                if (source := source_path(study.dataset, clip)) and audio_path(clip) not in item.played:
                    (item.sounds if name == "high" else item.others.setdefault(name, {}))[audio_path(clip)] = source
        if item.sounds:
            yield item


def _write_sounds(target: Path, items: list[Item]) -> set[str]:
    """Write every sound that is not there yet; returns those that cannot be read."""
    unreadable = set()
    for path, source in {path: source for item in items for path, source in item.played.items()}.items():
        if not (target / path).is_file():
            try:
                replace(target / path, mp3(source))
            except (sf.LibsndfileError, ValueError, EOFError):
                unreadable.add(path)
    return unreadable
