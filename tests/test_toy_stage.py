"""A stage of a package outside the tree: found by its entry point, run, resumed and shown on pages with nothing of Auricle's touched."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest import stages
from ingest.run import run_study
from ingest.study import make_study
from report.site import build
from tests.small import Silent, write_sounds
from tests.test_before import Lines
from warehouse import ledger, store
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STAGE = '''"""Stage `loudness`: how far each neuron follows the level of the clips."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.stages import Outcome, silent
from ingest.stages.recorded import read_recorded
from warehouse import store

TITLE = "loudness of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("probes",)
SCHEMA = """
CREATE TABLE IF NOT EXISTS neuron_loudness (run_id BIGINT, neuron_id BIGINT, correlation DOUBLE, PRIMARY KEY (run_id, neuron_id));
COMMENT ON TABLE neuron_loudness IS 'How far each neuron follows the level of the clips.';
"""


@dataclass(frozen=True)
class Settings:
    """least_clips: fewer make no correlation."""

    least_clips: int = 3


def run(context, settings, progress=silent):
    """Correlate every neuron recorded with the level of the clips; a layer is a unit of work."""
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    with store.connect_readonly(context.warehouse) as con:
        level = dict(con.execute("SELECT clip_id, rms_dbfs FROM clip").fetchall())
    levels = np.array([level[int(clip)] if level[int(clip)] is not None else np.nan for clip in recorded.clip_ids], dtype=float)
    heard = np.isfinite(levels)
    run = recorded.begin("loudness", 1, {"least_clips": settings.least_clips})
    worked = 0
    for item, layer in run.pending(recorded.plan(), progress):
        values = np.asarray(layer.matrix(), dtype=float)[:, heard]
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.array([np.corrcoef(row, levels[heard])[0, 1] for row in values])
        rows = {"neuron_id": layer.first_neuron_id + np.arange(layer.neurons), "correlation": correlation}
        run.record([item], {"neuron_loudness": pl.DataFrame(rows).with_columns(pl.col("correlation").fill_nan(None))})
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())
'''
TOPIC = '''"""How far neurons follow the level of the clips."""

from markupsafe import Markup

from report.topics.topic import Part, Parts, Topic


class Loudness(Topic):
    """What neurons' pages say of it."""

    stage = "loudness"

    def neurons(self, page, layer):
        if self.run_id is None:
            return Parts()
        found = self.con.execute("SELECT neuron_id, correlation FROM neuron_loudness WHERE run_id = ?", [self.run_id]).fetchall()
        said = {neuron: Markup(f"<p>Follows the level by {value:.2f}.</p>") for neuron, value in found if value is not None}
        return Parts({neuron: [Part(text)] for neuron, text in said.items()}, self.runs)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package as pip would leave it, and sounds to run it on."""
    folder = tmp_path / "packages"
    about = folder / "auricle_loudness-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: auricle-loudness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[auricle.stages]\nloudness = auricle_loudness.stage\n[auricle.topics]\nloudness = auricle_loudness.topic:Loudness\n"
    )
    (folder / "auricle_loudness").mkdir()
    for name, text in (("__init__", ""), ("stage", STAGE), ("topic", TOPIC)):
        (folder / "auricle_loudness" / f"{name}.py").write_text(text)
    write_sounds(tmp_path / "sounds")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("auricle_loudness")]:
        del sys.modules[name]


def study(folder, **sections):
    return make_study(
        {
            "stages": ["loudness"], "dataset": [{"reader": "folder", "source": str(folder / "sounds"), "name": "sounds"}],
            "network": [{"name": f"{__file__.rpartition('/')[0]}/small.py:small_network"}], "activations": {"device": "cpu", "batch": 4},
            **sections,
        },
        "study",
    )  # fmt: skip


def test_a_stage_of_a_package_is_found_run_resumed_and_shown(package):
    assert stages.names()[-1] == "loudness"
    assert stages.adds("loudness") == "how far each neuron follows the level of the clips"
    assert study(package).planned() == ["clips", "activations", "probes", "loudness"]
    with pytest.raises(UserError, match="study: loudness: 'least' is not known: did you mean 'least_clips'"):
        study(package, loudness={"least": 1})
    warehouse = package / "w.duckdb"
    command = [sys.executable, "-m", "tests.test_toy_stage", str(package)]
    path = os.pathsep.join((str(package / "packages"), str(ROOT)))
    assert subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode == -signal.SIGKILL
    lines = Lines()
    run_study(warehouse, study(package), lines)
    assert lines.said[-1] == "loudness of small on sounds: run 4, 1 layers done"
    run_study(warehouse, study(package), lines)
    assert lines.said[-1] == "loudness of small on sounds: run 4, nothing to do"
    assert list(check(warehouse)) == []
    with store.connect_readonly(warehouse) as con:
        rows = dict(con.execute("SELECT neuron_id, correlation FROM neuron_loudness").fetchall())
        assert len(rows) == 5 + 7 + 3
    build(warehouse, package / "site")
    pages = sorted((package / "site" / "networks" / "small").glob("*/0*.html"))
    assert len(pages) == len(rows)
    said = [page.read_text().partition("Follows the level by ")[2].partition(".</p>")[0] for page in pages]
    assert sorted(filter(None, said)) == sorted(f"{value:.2f}" for value in rows.values() if value is not None)
    assert "run 4 (loudness)" in pages[0].read_text()


def killed_after_two_layers(folder):
    """Run the study until the second layer of the stage is committed."""
    record, seen = ledger.Run.record, []

    def deadly(run, items, *rest):
        record(run, items, *rest)
        seen.extend([run.stage] if run.stage == "loudness" else [])
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger.Run.record = deadly
    run_study(folder / "w.duckdb", study(folder), Silent())


if __name__ == "__main__":
    killed_after_two_layers(Path(sys.argv[1]))
