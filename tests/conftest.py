"""One thread a process, what several tests share, and which tests `make test-fast` leaves out."""

import os
from pathlib import Path

import pytest

# Arrays are small here: a second thread of OpenBLAS or OpenMP only spins. Set before a test imports numpy or torch; processes that tests
# start inherit it.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# Fixtures that skip a test where something is missing, and fixtures that take seconds.
OUTSIDE = {"browser", "clap", "clapcap", "minilm_folder"}
SLOW = {"starter"}


def pytest_collection_modifyitems(items):
    """A test that some machine would skip is marked `outside` on every machine, one with a slow fixture `slow`."""
    for item in items:
        if item.get_closest_marker("skipif") or OUTSIDE.intersection(item.fixturenames):
            item.add_marker("outside")
        if SLOW.intersection(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The sentence encoder in the cache, fetched when it is not; where it cannot be, tests that need it are skipped."""
    from ingest.networks.fetch import fetch
    from warehouse.store import UserError

    try:
        return fetch("minilm")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def starter(tmp_path_factory) -> Path:
    """The starter sounds as the reader writes them where there are none; not to be changed."""
    from ingest.sounds.readers import read_dataset

    folder = tmp_path_factory.mktemp("sounds") / "deep" / "starter"
    read_dataset("starter", folder)
    return folder


@pytest.fixture(scope="session")
def nodes():
    """A Ray cluster of two nodes of one processor each, and work done on it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    from ray.cluster_utils import Cluster

    from ingest import cluster

    soon = {"health_check_period_ms": 500}  # a dead node is noticed soon; one that is slow has as long as ever
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": soon})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made, cluster.over_ray(made.address)
    ray.shutdown()
    made.shutdown()
