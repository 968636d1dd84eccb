"""A network reads out by its own names in every stage; a study names the outputs of a checkpoint that does not."""

import duckdb
import pytest

from ingest.networks.registry import name_outputs
from ingest.run import run_study
from ingest.study import make_study
from tests.small import Silent, unnamed_network, write_label_map, write_sounds
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/ingest/')[0]}/small.py"
NAMES = ["low", "high", "noise"]


def study(folder, network, **keys):
    label_map = {"label_map": keys.pop("label_map")} if "label_map" in keys else {}
    table = {
        "stages": ["interventions", "specific_ablations"], "dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}],
        "network": [{"name": f"{SMALL}:{network}", **keys}], "activations": {"device": "cpu", "batch": 4},
        "interventions": {"largest": 1, "repeats": 2, **label_map}, "specific_ablations": {"draws": 2, **label_map},
    }  # fmt: skip
    return make_study(table, "study", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    write_sounds(folder / "sounds")
    write_label_map(folder / "map.csv")
    (folder / "names.txt").write_text("low\n\n high \nnoise\n")
    return folder


def read_out(folder, name, made):
    """Counts of the undisturbed read-out of both stages."""
    run_study(folder / f"{name}.duckdb", made, Silent())
    with duckdb.connect(str(folder / f"{name}.duckdb"), read_only=True) as con:
        outputs = con.execute(
            "SELECT neuron.name FROM neuron JOIN layer USING (layer_id) WHERE layer.name = 'logits' ORDER BY unit"
        ).fetchall()
        return outputs, con.execute(
            "SELECT stage, class.name, correct, total FROM readout JOIN run USING (run_id) JOIN class USING (class_id) ORDER BY ALL"
        ).fetchall()


def test_own_names_read_out_as_a_label_map_of_them_does(folder):
    by_map = read_out(folder, "map", study(folder, "planted_network", label_map="map.csv"))
    assert len(by_map[1]) == 6
    assert read_out(folder, "own", study(folder, "planted_network")) == by_map
    assert read_out(folder, "listed", study(folder, "unnamed_network", names=NAMES)) == by_map
    assert read_out(folder, "file", study(folder, "unnamed_network", names="names.txt")) == by_map
    with pytest.raises(
        UserError, match=r"no output of planted \(LABEL_0, LABEL_1, LABEL_2, ...\) is a class of sounds .* give names under"
    ) as caught:
        run_study(folder / "unnamed.duckdb", study(folder, "unnamed_network"), Silent())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["low", "high"], "2 names, but planted has 3 outputs"),
        (["low", "low", "noise"], "'low' does not stand for one output alone"),
        (["low", " ", "noise"], "' ' does not stand for one output alone"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, fault):
    with pytest.raises(UserError, match=fault):
        name_outputs(unnamed_network(), names)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"names in .*nothing\.txt cannot be read"):
        name_outputs(unnamed_network(), tmp_path / "nothing.txt")
    assert name_outputs(unnamed_network(), None).output_names == ["LABEL_0", "LABEL_1", "LABEL_2"]
