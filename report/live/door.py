"""When the server has the warehouse open: several readers at once, or one writer, and gaps in which another process can commit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

OPEN_S = 5.0
"""So long readers join those who read already; the next wait until all have left."""
GAP_S = 0.6
"""How long the warehouse then stays shut: an ingest that waits looks every quarter of a second (store.PATIENCE_S in all)."""
LOOK_S = 0.02


class Door:
    """Of one server, in its event loop. The operating system tells processes apart, not who in a process reads and who writes; the door does."""

    def __init__(self) -> None:
        self.readers = 0
        self.is_written = False
        self._waiting = 0
        self._since = 0.0
        self._shut_until = 0.0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Have the warehouse open for reading."""
        await self._until(self._may_read)
        if not self.readers:
            self._since = time.monotonic()
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            if not self.readers and time.monotonic() - self._since > OPEN_S:
                self._shut_until = time.monotonic() + GAP_S

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Have the warehouse for a short transaction, alone."""
        self._waiting += 1
        try:
            await self._until(lambda: not self.readers and not self.is_written)
        finally:
            self._waiting -= 1
        self.is_written = True
        try:
            yield
        finally:
            self.is_written = False

    def _may_read(self) -> bool:
        now = time.monotonic()
        has_long_been_open = self.readers > 0 and now - self._since > OPEN_S
        return not (self.is_written or self._waiting or has_long_been_open or now < self._shut_until)

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            await asyncio.sleep(LOOK_S)
