"""The folder a site lives in: writes only what changed, knows its own files, and removes only those."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from warehouse.store import UserError

MANIFEST = "manifest.json"
JOURNAL = "manifest.part"
HOLDER = "manifest.held"
GENERATOR = '<meta name="generator" content="Auricle">'


class Folder:
    """A site's folder. `put` and `keep` name what belongs to the site; `finish` removes what an earlier report made and this one did not.

    `manifest.json` lists the site's files with their sizes and the state of the warehouse they show. While a report runs, `manifest.part`
    lists what it has touched so far, so that the next report knows the files of one that was killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written = 0
        self.unchanged = 0
        self.files: dict[str, int] = {}
        self._folders: set[str] = set()
        self._announced: set[str] = set()
        self._before = _read_manifest(root / MANIFEST)
        self._journal: IO[str] = io.StringIO()
        index = root / "index.html"
        if index.is_file() and not self._before and not (root / JOURNAL).exists() and GENERATOR not in index.read_text("utf-8", "replace"):
            raise UserError(f"{index} was not made by Auricle and would be overwritten: name another folder with --site")

    def is_current(self, fingerprint: str) -> bool:
        """Whether a finished report of this state of the warehouse is here with all its files, as long as it wrote them."""
        if self._before.get("fingerprint") != fingerprint or (self.root / JOURNAL).exists():
            return False
        here = _sizes(self.root)
        return all(here.get(path) == size for path, size in self._before["files"].items())

    def before(self) -> tuple[list[int], list[int]]:
        """Sizes of the last finished report's files: those that are no sounds or pictures of clips, and those that are."""
        sizes: tuple[list[int], list[int]] = [], []
        for path, size in self._before.get("files", {}).items():
            sizes[path.startswith(("audio/", "spectrograms/"))].append(size)
        return sizes

    def missing_sounds(self) -> list[str]:
        """Source files the last finished report did not find."""
        return self._before.get("missing", [])

    def begin(self) -> None:
        """Start writing."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.files.clear()
        self._announced.clear()
        self._journal = (self.root / JOURNAL).open("a", encoding="utf-8")

    def announce(self, *paths: str) -> None:
        """Note files that are about to be made, so that the next report knows of them if this one is killed."""
        if new := [path for path in paths if path not in self._announced]:
            self._announced.update(new)
            self._journal.write("\n".join(new) + "\n")
            self._journal.flush()

    def keep(self, path: str, size: int) -> None:
        """Name a finished file of the site."""
        self.files[path] = size

    def put(self, path: str, text: str | bytes) -> None:
        """Write a file of the site unless it holds just that."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        file = f"{self.root}/{path}"
        self.announce(path)
        self.keep(path, len(data))
        folder = file.rpartition("/")[0]
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)
        try:
            with open(file, "rb", opener=_at_once) as present:
                if os.fstat(present.fileno()).st_size == len(data) and present.read() == data:
                    self.unchanged += 1
                    return
        except FileNotFoundError:
            pass
        replace(file, data)
        self.written += 1

    @property
    def left_out(self) -> int:
        """Neurons for which the last finished report made no page because there would have been too many."""
        return self._before.get("left_out", 0)

    def finish(self, fingerprint: str, missing: list[str], left_out: int = 0) -> int:
        """Remove what earlier reports left and write the manifest, which keeps `left_out`; returns how many files were removed."""
        self._journal.close()
        journal = self.root / JOURNAL
        known = {*self._before.get("files", {}), *journal.read_text("utf-8", "replace").splitlines()}
        removed = 0
        for path in known - self.files.keys():
            removed += self._remove(path)
            self._remove(path + ".tmp")
        manifest = {"fingerprint": fingerprint, "missing": missing, "left_out": left_out, "files": dict(sorted(self.files.items()))}
        replace(self.root / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=0).encode())
        journal.unlink()
        return removed

    def _remove(self, path: str) -> int:
        """Remove a file of an earlier report and the folders it leaves empty; never anything outside the site."""
        file = self.root / path
        if ".." in Path(path).parts or Path(path).is_absolute() or not file.is_file():
            return 0
        file.unlink()
        for folder in Path(path).parents:
            if folder == Path("."):
                break
            try:
                (self.root / folder).rmdir()
            except OSError:
                break
        return 1


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the one report into a folder, which is made. Raises UserError naming the process that writes into it already.

    The folder itself is locked, so that nothing is left of a report that was killed but who it was.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder, holder = os.open(root, os.O_RDONLY), root / HOLDER
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError), open(holder, encoding="utf-8", opener=_at_once) as file:
                raise UserError(f"{root} is being written by {file.read() or 'another report'}: wait for it to end, or stop it") from None
            raise UserError(f"{root} is being written by another report: wait for it to end, or stop it") from None
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(OSError):  # a folder that cannot be written may be up to date
            replace(holder, f"process {os.getpid()} (since {datetime.now():%Y-%m-%d %H:%M:%S})".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                holder.unlink()
    finally:
        os.close(folder)


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end where there is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def replace(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb", opener=_at_once) as out:
            out.write(data)
        os.replace(temporary, path)
    except OSError:  # a full disk, a folder in its place
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _read_manifest(path: Path) -> dict:
    try:
        with open(path, encoding="utf-8", opener=_at_once) as file:
            manifest = json.loads(file.read())
        return manifest if isinstance(manifest.get("files"), dict) else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _sizes(root: Path) -> dict[str, int]:
    """Size of every file below a folder, by path relative to it."""
    sizes: dict[str, int] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path + "/")
                else:
                    sizes[path] = entry.stat().st_size
    return sizes
