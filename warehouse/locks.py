"""Whether locks hold where a warehouse lies: one writer at a time rests on them, and some file systems give every comer the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import IO

MOUNTS = Path("/proc/self/mountinfo")
SHARED = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|afs|9p|virtiofs|vboxsf|lustre|beegfs|fuse|fuse\..+")
"""File systems of which locks hold within a machine at best, or only as they are mounted."""


def are_honoured(folder: Path) -> bool:
    """Whether locks keep anybody out in a folder, tried on a file of its own that is gone at the end. Raises OSError where there are no locks."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as first, open(first.name, "rb+") as second:
        return keep_out(first, second)


def keep_out(first: IO[bytes], second: IO[bytes]) -> bool:
    """Whether a lock that one opened file has keeps another from it: flock's, which the one writer has, and fcntl's on bytes, which DuckDB takes (here
    of opened files, as Linux has them, for those of processes keep no process from its own). Raises OSError where there are no locks."""
    for lock in (_flock, _bytes) if hasattr(fcntl, "F_OFD_SETLK") else (_flock,):
        lock(first)
        try:
            lock(second)
        except (BlockingIOError, PermissionError):  # EAGAIN, or EACCES
            continue
        return False
    return True


def _flock(file: IO[bytes]) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _bytes(file: IO[bytes]) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))  # all of them


def shared(path: Path, mounts: str | None = None) -> str | None:
    """The kind and source of the file system that holds `path`, when it is one that machines share; None for others, and where no list of `mounts`
    (text of /proc/self/mountinfo, see proc_pid_mountinfo(5)) tells."""
    if mounts is None:
        mounts = ""
        with contextlib.suppress(OSError):
            mounts = MOUNTS.read_text("utf-8", "replace")
    place, found = os.path.realpath(path), ("", "", "")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, said = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(said) < 2:
            continue
        point, source = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text) for text in (fields[4], said[1]))
        if (place == point or place.startswith(f"{point.rstrip('/')}/")) and len(point) >= len(found[0]):  # the last of those at one point
            found = (point, said[0], source)
    return f"{found[1]} ({found[2]})" if SHARED.fullmatch(found[1]) else None
