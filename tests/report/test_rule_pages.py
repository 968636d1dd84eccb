"""What neuron pages say of rules over measured properties, and what their cards do."""

import re
import shutil

import duckdb
import pytest

from ingest.methods import rule_words
from ingest.run import run_study
from ingest.stages import activations, descriptions
from ingest.study import DatasetChoice, NetworkChoice, Study
from report.parts.texts import quantity
from report.site import build
from tests.small import Silent, write_sounds

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/report/')[0]}/small.py:small_network"


@pytest.fixture(scope="module")
def made(tmp_path_factory, minilm_folder):
    folder = tmp_path_factory.mktemp("rules")
    write_sounds(folder / "sounds", clips=150)
    settings = {"activations": activations.Settings(device="cpu", batch=8), "descriptions": descriptions.Settings(held_out=0.4)}
    run_study(
        folder / "w.duckdb",
        Study((DatasetChoice("folder", folder / "sounds", "sounds"),), (NetworkChoice(SPEC),), ("scores",), settings),
        Silent(),
    )
    build(folder / "w.duckdb", folder / "site")
    return folder


@pytest.fixture
def con(made):
    with duckdb.connect(str(made / "w.duckdb"), read_only=True) as con:
        yield con


def pages(made):
    """Texts of the pages of neurons."""
    texts = [path.read_text() for path in sorted((made / "site").rglob("*.html"))]
    return [text for text in texts if "<h2 id=high>" in text]


def test_a_page_says_the_rule_how_well_it_tells_and_what_one_condition_fewer_costs(made, con):
    rows = con.execute(
        """SELECT conditions, rule.auroc, auroc_fewer, description, s.auroc, s.floor FROM rule
           JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) JOIN v_description USING (run_id, neuron_id)
           JOIN (FROM description_score WHERE scorer = 'rule') AS s USING (neuron_id) WHERE layer.name = 'conv1'"""
    ).fetchall()
    assert rows
    texts = [text for text in pages(made) if ">conv1</a>" in text]
    for conditions, auroc, fewer, description, held_out, floor in rows:
        text = next(text for text in texts if f"<p class=lead>{description}<" in text)
        assert f"Cross-validated AUROC <b>{auroc:.2f}</b>" in text
        assert (f"with one condition fewer {fewer:.2f}" in text) == (conditions > 1)
        assert f"its rule tells those that activate the neuron most with an AUROC of <b>{held_out:.2f}</b>" in text
        assert f"other neurons’ rules do ({floor:.2f})" in text


def test_cards_say_the_properties_of_the_rule_and_not_the_same_sentences(made, con):
    text = pages(made)[0]
    said = re.findall("</a><p>(.*?)<", text)
    assert len(set(said)) > len(said) / 2
    assert not any("It is a" in line for line in said)
    units = con.execute("SELECT DISTINCT name, unit FROM rule_condition").fetchall()
    names = {f"{name}, {unit}" if unit not in ("", "Hz", "s", "%", "/s") else name for name, unit in units}
    [named] = re.findall(r"; below it (.*?)\.(?: <span|\n)", text)
    assert set(named.split(" · ")) <= names
    assert all(len(line.split(" · ")) == len(named.split(" · ")) for line in said)


def test_a_neuron_without_a_rule_says_so(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("site"))
    with duckdb.connect(str(tmp_path / "copy" / "w.duckdb")) as con:
        con.execute("UPDATE rule SET conditions = 0, auroc = 0.531, reason = 'no measured property tells more than chance'")
        for table in ("rule_condition", "summary_point", "description_score"):
            con.execute(f"DELETE FROM {table}")
    build(tmp_path / "copy" / "w.duckdb", tmp_path / "site")
    found = pages(tmp_path)
    assert found
    assert all("<p class=lead>No measured property tells more than chance (cross-validated AUROC 0.53)." in text for text in found)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(5140.0, "Hz", "5.1 kHz"), (0.08, "s", "80 ms"), (-52.3, "dBFS", "−52 dBFS"), (0.62, "%", "62%"), (4.0, "/s", "4/s"), (-0.2, "dB", "0 dB"),
     (3, "", "3"), (440.0, "Hz", "440 Hz"), (0.998, "%", "99.8%"), (1.0, "%", "100%"), (0, "s", "0 ms")],
)  # fmt: skip
def test_quantities_are_those_of_descriptions(value, unit, text):
    assert quantity(value, unit) == text
    assert rule_words.quantity(value, unit) == text


def test_a_neuron_page_is_small(made):
    """Class names, scripts and units that all cards share stand elsewhere, once."""
    pages = sorted(made.glob("site/networks/*/*/[0-9]*.html"))
    assert max(page.stat().st_size for page in pages) < 8100
    for page in pages:
        text = page.read_text("utf-8")
        assert text.count("<script") == 1
        assert text.count("rel=stylesheet") == 2
        assert re.search(r"<li>[^<]*<a href=[^>/]*></a>", text)
        assert (page.parent / "clips.css").stat().st_size < 40_000
