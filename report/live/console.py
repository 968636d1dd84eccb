"""Queries of the console: each in a process of its own (see query.py), which is ended at its limit or when nobody wants its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import asdict
from pathlib import Path

from report.live.door import Door
from report.live.query import OPEN, READY, Asked, FileFormat, too_long
from warehouse.store import PATIENCE_S

ROWS, FILE_ROWS = 5_000, 1_000_000
"""Rows of a result on a page, and in a file."""
MEMORY = "2GB"
AT_ONCE = 4
GRACE_S = 3.0
"""Seconds beyond its limit after which a query that does not stop is ended with its process."""
STARTING_S = 60.0
"""Seconds that a process may take to be ready, on a machine that has other things to do."""
LONGEST_SQL = 100_000
CANCELLED = "cancelled"


class Console:
    """Runs queries, several at once; `limit_s` seconds each may take once its turn has come."""

    def __init__(self, warehouse: Path, door: Door, limit_s: float) -> None:
        self.warehouse, self.door, self.limit_s = warehouse.resolve(), door, limit_s
        self.processes: dict[str, Process | None] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._filling = asyncio.Lock()
        self._spare: Process | None = None

    async def run(self, number: str, sql: str, file: Path | None = None, format: FileFormat = "csv") -> dict:
        """The answer to a query, as of query.Answer; `number` is what it can be cancelled by, `file` takes the result instead."""
        if len(sql) > LONGEST_SQL:
            return {"error": f"the query has {len(sql)} characters, more than {LONGEST_SQL}"}
        if number in self.processes:
            return {"error": "this query runs already"}
        self.processes[number] = None
        asked = Asked(str(self.warehouse), sql, FILE_ROWS if file else ROWS, self.limit_s, MEMORY, str(file) if file else None, format)
        process = said = None
        try:
            async with self._turn, self.door.reading():
                process = await self._take()
                if number not in self.processes:
                    return {"error": CANCELLED}
                self.processes[number] = process
                said = await self._ask(process, asked)
        except (OSError, EOFError, TimeoutError, ValueError):  # ValueError: half an answer, of a process that was ended meanwhile
            said = None
        finally:
            cancelled = self.processes.pop(number, CANCELLED) == CANCELLED
            if process:
                await _end(process)
                await self.refill()
        if cancelled:
            return {"error": CANCELLED}
        if said is None:
            return {"error": "the query ended DuckDB, which does not say why: it may have taken more memory than there is"}
        return said

    async def _ask(self, process: Process, asked: Asked) -> dict:
        """A process's answer. Raises EOFError where it ends without one."""
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(asdict(asked)).encode() + b"\n")
        await process.stdin.drain()
        # It waits by itself for who commits, and counts from when it has the warehouse.
        first = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S + STARTING_S)
        if first != OPEN:
            return json.loads(first) if first else {"error": "the query could not be begun"}
        try:
            return json.loads(await asyncio.wait_for(process.stdout.read(), self.limit_s + GRACE_S) or "null")
        except TimeoutError:
            return {"error": too_long(self.limit_s)}

    async def _take(self) -> Process:
        """A process that is ready: importing what a query needs takes longer than most queries, so that one waits for the next."""
        process, self._spare = self._spare, None
        process = process or await _start()
        assert process.stdout
        if await asyncio.wait_for(process.stdout.readline(), STARTING_S) != READY:
            await _end(process)
            raise EOFError
        return process

    async def refill(self) -> None:
        """Have a process wait for the next query."""
        async with self._filling:
            self._spare = self._spare or await _start()

    def cancel(self, number: str) -> bool:
        """End a query; whether there was one."""
        if number not in self.processes:
            return False
        process = self.processes.pop(number)
        if process:
            _kill(process)
        return True

    async def close(self) -> None:
        """End all."""
        for number in list(self.processes):
            self.cancel(number)
        if self._spare:
            await _end(self._spare)


async def _start() -> Process:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "report.live.query", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=os.environ | {"PYTHONPATH": path},
        start_new_session=True, limit=1 << 26,
    )  # fmt: skip


def _kill(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _end(process: Process) -> None:
    _kill(process)
    await asyncio.shield(process.wait())
