"""Whether locks hold where a warehouse lies."""

import fcntl
from pathlib import Path

import pytest

from warehouse import locks, store
from warehouse.store import UserError

MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
25 22 0:23 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
91 22 0:45 / /home rw,relatime shared:50 - nfs4 nas:/export/home rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.2
95 91 254:3 / /home/ann/disk rw,relatime shared:51 - xfs /dev/vdb1 rw
97 22 0:47 / /mnt/lab\040share rw,relatime shared:52 - cifs //server/lab\040share rw,vers=3.1.1
99 22 0:50 / /data rw,relatime - ext4 /dev/vdc1 rw
101 99 0:51 / /data rw,nosuid,nodev - fuse.sshfs me@host:/data rw,user_id=0
103 22 8:1 / /windows rw - fuseblk /dev/sda1 rw
105 22 0:60 / /scratch rw,relatime - overlay overlay rw,lowerdir=/a
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/w.duckdb", None), ("/home/bob/w.duckdb", "nfs4 (nas:/export/home)"), ("/home/ann/disk/w.duckdb", None), ("/homes/w.duckdb", None),
        ("/mnt/lab share/a/w.duckdb", "cifs (//server/lab share)"), ("/data/w.duckdb", "fuse.sshfs (me@host:/data)"), ("/windows/w.duckdb", None),
        ("/scratch/w.duckdb", None),
    ],
)  # fmt: skip
def test_file_systems_that_machines_share(path, kind):
    assert locks.shared(Path(path), MOUNTS) == kind


def test_a_link_is_followed_to_where_the_warehouse_lies(tmp_path):
    (tmp_path / "w.duckdb").symlink_to("/home/bob/w.duckdb")
    assert locks.shared(tmp_path / "w.duckdb", MOUNTS) == "nfs4 (nas:/export/home)"
    assert locks.shared(tmp_path / "other.duckdb", "") is None


def test_this_machine_s_own_mounts_are_read(tmp_path):
    if not locks.MOUNTS.is_file():
        pytest.skip("no list of mounts here")
    assert locks.shared(Path("/proc/self/status")) is None
    assert " - proc " in locks.MOUNTS.read_text()
    assert locks.shared(tmp_path) == locks.shared(tmp_path, locks.MOUNTS.read_text())


def test_locks_are_honoured_here_and_nothing_is_left(tmp_path):
    assert locks.are_honoured(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locks_that_keep_nobody_out_are_seen(tmp_path):
    """What a file system without locks gives: whoever opens the file has its lock, as here of two files that share nothing."""
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two:
        assert not locks.keep_out(one, two)
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two, (tmp_path / "two").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # flock alone keeps out, locks on bytes do not
        assert not locks.keep_out(one, two)


def test_a_warehouse_where_locks_are_not_honoured_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "are_honoured", lambda folder: False)
    with pytest.raises(UserError) as caught, store.writer(tmp_path / "w.duckdb"):
        pass
    assert "lies where locks are not honoured" in str(caught.value)
    assert str(caught.value).endswith("two writers would ruin it: put the warehouse on a local disk")
    assert not (tmp_path / "w.duckdb").exists()


def test_a_shared_file_system_is_told_of_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "mounts").write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 nas:/export rw\n")
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    for _ in range(2):
        with store.writer(tmp_path / "w.duckdb"):
            pass
    [line] = capsys.readouterr().err.splitlines()
    assert "lies on nfs4 (nas:/export), where locks may not hold between machines" in line
