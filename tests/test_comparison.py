"""Two runs side by side, against plain correlations."""

import numpy as np
import pytest

from analyze.comparison import compare
from ingest.run import run_study
from ingest.stages import activations
from ingest.stages.recorded import read_recorded
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.small import Silent, write_sounds
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/')[0]}/small.py"


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    write_sounds(folder / "sounds")
    for networks in (("small_network",), ("planted_network",)):
        choices = tuple(NetworkChoice(f"{SMALL}:{name}") for name in networks)
        study = Study(
            (DatasetChoice("folder", folder / "sounds", "sounds"),),
            choices,
            settings={"activations": activations.Settings(device="cpu", batch=4)},
        )
        run_study(folder / "w.duckdb", study, Silent())
    return folder / "w.duckdb"


def test_matches_are_the_highest_correlations(warehouse):
    found = compare(warehouse, 2, 3)
    one, other = (read_recorded(warehouse, run) for run in (2, 3))
    a, b = (np.concatenate([np.asarray(layer.matrix(), dtype=np.float64) for layer in side.layers]) for side in (one, other))
    alive = [np.flatnonzero(values.std(axis=1) > 1e-9) for values in (a, b)]
    # Equal clips stand in both matrices several times; the comparison takes each content once.
    assert set(found.matches["neuron_id"]) == {one.layers[0].first_neuron_id + row for row in alive[0]}
    for neuron, match, correlation in found.matches.select("neuron_id", "match_id", "correlation").rows():
        row = a[neuron - one.layers[0].first_neuron_id]
        best = max(np.corrcoef(row, b[other_row])[0, 1] for other_row in alive[1])
        direct = np.corrcoef(row, b[match - other.layers[0].first_neuron_id])[0, 1]
        assert correlation == pytest.approx(direct, abs=0.02)
        assert correlation == pytest.approx(best, abs=0.02)
    assert found.layers["layer"].to_list() == ["conv1", "conv2", "logits"]
    assert found.layers["layer_second"].to_list() == ["bands", "logits", None]


def test_a_run_is_its_own_match(warehouse):
    found = compare(warehouse, 2, 2)
    same = found.matches.filter(found.matches["neuron_id"] == found.matches["match_id"])
    assert len(same) == len(found.matches) > 10
    assert found.matches["mutual"].all()
    assert found.matches["correlation"].min() == pytest.approx(1, abs=1e-4)
    assert len(found.descriptions) == 0


def test_runs_that_cannot_be_compared_are_refused(warehouse):
    with pytest.raises(UserError, match="run 1 is no finished run of stage activations"):
        compare(warehouse, 1, 2)
