"""Two Ray nodes with a network between them, and harm done to nodes, link and driver: the warehouse is that of one process."""

import importlib.util
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from benchmarks import two_nodes
from tests.ingest.sounds.test_datasets import ESC50
from warehouse.check import check

SEGMENTS = 13
LAYERS = ["layer1/conv", "layer4/depthwise_conv", "layer4/pointwise_conv", "layer10/depthwise_conv", "layer14/pointwise_conv", "outputs"]
"""Of each kind; tables of all take the process that writes the warehouse as long as the nodes take to measure."""
HEARD_S = 90.0
"""Within which a run is done after a link was cut without a word."""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need Linux, root and iproute2 (ip)",
    ),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test-cluster"),
    pytest.mark.skipif(not (ESC50 / "meta" / "esc50.csv").is_file(), reason=f"no ESC-50 at {ESC50}: set AURICLE_ESC50 to its folder"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    return two_nodes.begin(tmp_path_factory.mktemp("begun"), str(ESC50), LAYERS)


@pytest.fixture(scope="module")
def one(begun, tmp_path_factory):
    """What one process makes, while two nodes are begun."""
    folder = tmp_path_factory.mktemp("one")
    with two_nodes.network(), ThreadPoolExecutor() as pool:
        made = pool.submit(two_nodes.run, folder, begun, None, cluster=False)
        with two_nodes.nodes():
            made.result()
            yield folder


@pytest.mark.parametrize("name", two_nodes.HARMS)
def test_whatever_is_harmed_the_warehouse_is_that_of_one_process_and_nothing_is_done_again(begun, one, tmp_path, name):
    harm = two_nodes.HARMS[name]
    found = two_nodes.run(tmp_path, begun, harm, cluster=True)
    assert two_nodes.equal(one, tmp_path)
    assert list(check(tmp_path / "w.duckdb")) == []
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT list(segment ORDER BY segment) FROM segment").fetchall() == [(list(range(SEGMENTS)),)]
    assert found["measured_again"] == 0
    if harm:
        assert 3 <= found["measured_before"] < SEGMENTS
    if harm is two_nodes.cut_link:
        assert found["seconds_after"] <= HEARD_S
    assert found["nodes"] == ["au-head", "au-other"]
