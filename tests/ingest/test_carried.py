"""Segments by way of a URL: machines that see nothing of each other's disks make the warehouse that one process makes."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ingest import cluster
from ingest.run import run_study
from ingest.study import ClusterChoice
from tests.ingest.test_cluster import NETWORK, a_study, same
from tests.small import Silent, write_sounds
from warehouse.check import check
from warehouse.store import UserError

FAINT = """
from tests.small import small_network

def faint_network():
    network = small_network()
    first = next(network.module.parameters())
    first.data *= 1e-9
    return network
"""


@pytest.fixture(scope="module", params=["whole", "faint"])
def one(request, tmp_path_factory):
    """A network, and the warehouse of one process; float16 does not hold the faint network's values."""
    folder = tmp_path_factory.mktemp(request.param)
    write_sounds(folder / "sounds")
    (folder / "faint.py").write_text(FAINT)
    network = NETWORK if request.param == "whole" else f"{folder / 'faint.py'}:faint_network"
    run_study(folder / "w.duckdb", a_study(folder, network), Silent())
    return folder, network


def by_way_of(url, folder, network=NETWORK):
    return replace(a_study(folder, network), cluster=ClusterChoice(segments=url))


def machine(name, folder, one):
    """A folder with the sounds and nothing else."""
    (folder / name).mkdir()
    (folder / name / "sounds").symlink_to(one / "sounds")
    return folder / name


def merged_by_parts(url, folder, one, network):
    """What becomes of three machines' parts, each with a copy of the warehouse of clips."""
    main = machine("main", folder, one)
    run_study(main / "w.duckdb", replace(a_study(main, network), stages=("clips",)), Silent())
    for part in ("1/3", "2/3", "3/3", "1/3"):
        other = machine(f"other{part[0]}", folder, one) if not (folder / f"other{part[0]}").exists() else folder / f"other{part[0]}"
        shutil.copyfile(main / "w.duckdb", other / "w.duckdb")
        cluster.measure_part(other / "w.duckdb", by_way_of(url, other, network), part, Silent())
        assert not list(other.rglob("segment-*"))
    study = by_way_of(url, main, network)
    run_study(main / "w.duckdb", study, Silent(), cluster.parts_only(study.cluster))
    return main


def test_parts_of_machines_that_share_a_url_alone_make_one_warehouse(one, tmp_path):
    folder, network = one
    main = merged_by_parts(f"file://{tmp_path / 'bucket'}", tmp_path, folder, network)
    assert same(folder, main)
    assert list(check(main / "w.duckdb")) == []
    assert not [path for path in (tmp_path / "bucket").rglob("*") if path.name.startswith("segment-")]


def test_a_segment_that_changed_on_its_way_is_refused(tmp_path):
    write_sounds(tmp_path / "sounds")
    warehouse, study = tmp_path / "w.duckdb", by_way_of(f"file://{tmp_path / 'bucket'}", tmp_path)
    run_study(warehouse, replace(study, stages=("clips",)), Silent())
    cluster.measure_part(warehouse, study, "1/1", Silent())
    file = min((tmp_path / "bucket").rglob("*.npy"))
    values = np.load(file)
    np.save(file, values + 1)
    with pytest.raises(
        UserError, match=r"segment-00000\.\w+/0000\.max\.npy is not what was measured: delete segment-00000\.\w+\.json there"
    ):
        run_study(warehouse, study, Silent(), cluster.parts_only(study.cluster))
    next((tmp_path / "bucket").rglob("segment-00000.*.json")).unlink()
    cluster.measure_part(warehouse, study, "1/1", Silent())
    run_study(warehouse, study, Silent(), cluster.parts_only(study.cluster))
    assert list(check(warehouse)) == []


def test_what_lies_at_the_url_when_the_driver_dies_goes_with_the_next(tmp_path):
    write_sounds(tmp_path / "sounds")
    warehouse, study = tmp_path / "w.duckdb", by_way_of(f"file://{tmp_path / 'bucket'}", tmp_path)
    run_study(warehouse, replace(study, stages=("clips",)), Silent())
    cluster.measure_part(warehouse, study, "1/1", Silent())

    def dying(choice):
        def measure(extraction, numbers, progress):
            yield from itertools.islice(cluster.parts_only(study.cluster)(choice)(extraction, numbers, progress), len(numbers))
            raise KeyboardInterrupt

        return measure

    with pytest.raises(KeyboardInterrupt):
        run_study(warehouse, study, Silent(), dying)
    assert list((tmp_path / "bucket").rglob("segment-*.json"))
    run_study(warehouse, study, Silent(), cluster.parts_only(study.cluster))
    assert not list((tmp_path / "bucket").rglob("segment-*"))
    assert list(check(warehouse)) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [("nosuch://bucket", "Protocol not known: nosuch"), ("file:///proc/nosuch/bucket", "No such file or directory")],
)
def test_a_url_that_cannot_be_had_is_refused_in_one_line(tmp_path, url, reason):
    write_sounds(tmp_path / "sounds")
    warehouse, study = tmp_path / "w.duckdb", by_way_of(url, tmp_path)
    run_study(warehouse, replace(study, stages=("clips",)), Silent())
    with pytest.raises(UserError, match=f"^segments '{url}': .*{reason}[^\n]*$"):
        cluster.measure_part(warehouse, study, "1/4", Silent())


@pytest.mark.cluster
def test_parts_go_through_an_object_store(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed: make test-cluster")
    servers = pytest.importorskip("moto.server", reason="moto is not installed: make test-cluster")
    alone = tmp_path / "alone"
    write_sounds(alone / "sounds")
    run_study(alone / "w.duckdb", a_study(alone), Silent())
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        asked = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
        for name, value in asked.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        main = merged_by_parts("s3://bucket/auricle", tmp_path, alone, NETWORK)
        assert same(alone, main)
        assert not s3fs.S3FileSystem().find("bucket")
    finally:
        server.stop()


@pytest.mark.cluster
def test_segments_of_ray_tasks_go_through_a_url(nodes, one, tmp_path):
    folder, network = one
    main = machine("main", tmp_path, folder)
    study = by_way_of(f"file://{tmp_path / 'bucket'}", main, network)
    run_study(main / "w.duckdb", study, Silent(), cluster.Cluster(nodes[1].ray, study.cluster))
    assert same(folder, main)
