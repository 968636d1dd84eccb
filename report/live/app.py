"""The server of `auricle serve`: the site as it lies in its folder, and below /live/ the pages that need a server."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import duckdb
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from report.listening import Listening, build_page
from report.live import keeping, site_files, subjects
from report.live.console import FILE_ROWS, ROWS, Console
from report.live.door import Door
from report.live.guard import Guard
from report.parts.page import templates
from warehouse import store
from warehouse.store import UserError

PATIENCE_S = 30.0
"""Seconds that a page waits for the warehouse while another process commits."""
HEAR_S = 120.0
"""Seconds that a sound waits for its turn with a network."""
SMALL = 200_000
"""Bytes of a request that brings no sound."""
PAGES = {"console": "SQL console", "silence": "Silence neurons", "listen": "Listen", "lists": "Lists and votes"}
ANY = ("0.0.0.0", "::")


class Ears(Protocol):
    """What runs networks for the server, in the packages that have them; both raise UserError."""

    def silence(self, place: tuple[int, int], units: str, sound: int | Path, draws: tuple[int, int]) -> dict:
        """What silencing neurons of a run's layer (draws: how many, and their seed) does to a network's outputs on a clip or a file."""

    def listen(self, run: int, sound: Path) -> dict[str, Any]:
        """What a file's neurons do, as fields of report.listening.Listening."""


@dataclass(frozen=True)
class Serving:
    """What is served: a site, the warehouse it shows, and what hears (none: no network is run); the limits of a query and of what is sent."""

    warehouse: Path
    site: Path
    ears: Ears | None
    query_s: float
    most_bytes: int


class Server:
    """Answers requests. The warehouse is open for a request alone, by way of the door, so that an ingest beside it can commit."""

    def __init__(self, serving: Serving) -> None:
        self.serving, self.door = serving, Door()
        self.console = Console(serving.warehouse, self.door, serving.query_s)
        self.hearing = asyncio.Lock()
        self.templates = templates()
        self.templates.globals["entries"] = []

    def app(self) -> Starlette:
        """The application."""
        asked = {
            "query": self.query, "cancel": self.cancel, "change": self.change, "silence": self.silence, "listen": self.listen,
        }  # fmt: skip
        told = {"schema": self.schema, "runs": self.runs, "clips": self.clips, "neuron": self.neuron, "lists": self.lists}
        routes = [Route(f"/live/{name}", _told(handler), methods=["POST"]) for name, handler in asked.items()]
        routes += [Route(f"/live/{name}.json", _told(handler)) for name, handler in told.items()]
        routes += [Route("/live/{name}.html", self.page), Route("/live/static/{path:path}", self.static), Route("/{path:path}", self.site)]
        return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})

    # Pages

    async def site(self, request: Request) -> Response:
        """A file of the site."""
        return await run_in_threadpool(site_files.file, self.serving.site, request.path_params["path"])

    async def static(self, request: Request) -> Response:
        """A script or style of the server's own."""
        return await run_in_threadpool(site_files.file, site_files.STATIC, request.path_params["path"])

    async def page(self, request: Request) -> Response:
        """A page of the server's own."""
        name = request.path_params["name"]
        if name not in PAGES:
            raise HTTPException(404, "there is no such page")
        values = {
            "limit_s": self.console.limit_s,
            "rows": ROWS,
            "file_rows": FILE_ROWS,
            "most_mb": self.serving.most_bytes / 1e6,
            "hears": self.serving.ears is not None,
        }
        text = self.templates.get_template(f"live/{name}.html.j2").render(root="../", title=PAGES[name], provenance="", **values)
        return site_files.page(text)

    # The warehouse, read

    async def read(self, what: Callable[..., Any], *values: Any) -> Any:
        """What a function says of the warehouse."""

        def reading() -> Any:
            with store.connect_readonly(self.serving.warehouse, PATIENCE_S) as con:
                return what(con, *values)

        async with self.door.reading():
            try:
                return await run_in_threadpool(reading)
            except duckdb.CatalogException as error:
                raise UserError(f"{self.serving.warehouse} lacks what this page shows: {store.first_line(error)}") from None

    async def schema(self, request: Request) -> Any:
        """Tables, columns and queries, for the console."""
        return await self.read(subjects.schema)

    async def runs(self, request: Request) -> Any:
        """Runs whose networks can be silenced or listened with."""
        found = {"runs": await self.read(subjects.runs)}
        return found | (
            {"place": await self.read(subjects.place, _number(request.query_params["neuron"]))}
            if request.query_params.get("neuron")
            else {}
        )

    async def clips(self, request: Request) -> Any:
        """Clips of a run."""
        return await self.read(subjects.clips, _number(request.query_params.get("run")))

    async def neuron(self, request: Request) -> Any:
        """Lists and votes of a neuron."""
        return await self.read(keeping.of_neuron, request.query_params.get("neuron"))

    async def lists(self, request: Request) -> Any:
        """All lists and votes."""
        return await self.read(keeping.shown)

    # What is asked for

    async def query(self, request: Request) -> Any:
        """Run a query; ends it when nobody waits for it any more."""
        given = await _json(request)
        number, sql, format = str(given.get("id", ""))[:64], str(given.get("sql", "")), given.get("format")
        if format in ("csv", "parquet"):
            with tempfile.TemporaryDirectory(prefix="auricle-") as folder:
                file = Path(folder) / f"result.{format}"
                found = await self._while_wanted(request, self.console.run(number, sql, file, format))
                if not file.is_file():
                    raise UserError(found.get("error") or "there is no result")
                return Response(file.read_bytes(), headers={"content-disposition": f"attachment; filename={file.name}", "x-cut": str(int(found["is_cut"]))},
                                media_type="text/csv" if format == "csv" else "application/vnd.apache.parquet")  # fmt: skip
        found = await self._while_wanted(request, self.console.run(number, sql))
        if found.get("error"):
            raise UserError(found["error"])
        return found

    async def _while_wanted(self, request: Request, work: Awaitable[dict]) -> dict:
        """What comes of work, which is given up when who asked has left."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.25)
                if not task.done() and await request.is_disconnected():
                    return {"error": "nobody waits for it"}
            return task.result()
        finally:
            task.cancel()

    async def cancel(self, request: Request) -> Any:
        """End a query."""
        return {"cancelled": self.console.cancel(str((await _json(request)).get("id", "")))}

    async def change(self, request: Request) -> Any:
        """Change a list, or vote."""
        given = await _json(request)
        what = given.pop("what", None)
        if what not in keeping.CHANGES:
            raise UserError(f"a change is one of {', '.join(keeping.CHANGES)}")
        async with self.door.writing():
            await run_in_threadpool(keeping.change, self.serving.warehouse, what, given)
        return {"done": True}

    async def silence(self, request: Request) -> Any:
        """Silence neurons on a clip, or on a sound that is sent with the request."""
        ears = self._ears()
        async with request.form(max_files=1, max_fields=20, max_part_size=SMALL) as form:
            place, units = (_number(form.get("run")), _number(form.get("layer"))), str(form.get("units") or "")
            draws = (_number(form.get("draws") or "10"), _number(form.get("seed") or "0"))
            silence = functools.partial(ears.silence, place, units, draws=draws)
            upload = form.get("file")
            if upload is not None and not isinstance(upload, str) and upload.size:
                return await self._heard(upload, silence)
            if not form.get("clip"):
                raise UserError("no sound: choose a clip, or a file that is not empty")
            return await self._hear(functools.partial(silence, _number(form.get("clip"))))

    async def listen(self, request: Request) -> Any:
        """A page about the neurons that a sound moves that is sent with the request."""
        ears = self._ears()
        async with request.form(max_files=1, max_fields=20, max_part_size=SMALL) as form:
            upload, run = form.get("file"), _number(form.get("run"))
            if upload is None or isinstance(upload, str) or not upload.size:
                raise UserError("no sound was sent: choose a file, or record one")
            return HTMLResponse(await self._heard(upload, lambda path: self._page(path, ears.listen(run, path))))

    def _page(self, path: Path, heard: dict[str, Any]) -> str:
        """The page about a sound, its links those of the site as it is served."""
        page = path.with_name("page.html")
        try:
            build_page(self.serving.warehouse, page, Listening.of(**heard), self.serving.site)
        except UserError:  # the site is older than the run
            build_page(self.serving.warehouse, page, Listening.of(**heard))
        return page.read_text("utf-8").replace(f'href="{quote(os.path.relpath(self.serving.site, page.parent))}/', 'href="/')

    def _ears(self) -> Ears:
        if self.serving.ears is None:
            raise UserError("this server runs no network")
        return self.serving.ears

    async def _heard(self, upload: Any, work: Callable[[Path], Any]) -> Any:
        """What is done with an uploaded file, which is kept no longer."""
        with tempfile.TemporaryDirectory(prefix="auricle-") as folder:
            path = Path(folder) / (re.sub(r"[^\w.() -]+", "_", Path(upload.filename or "").name)[-80:].lstrip(". ") or "sound")
            path.write_bytes(await upload.read())
            return await self._hear(functools.partial(work, path))

    async def _hear(self, work: Callable[[], Any]) -> Any:
        """Run a network: one at a time, and reading the warehouse meanwhile. What has begun is waited for, since no thread can be ended, and two in one
        network would mix what they record."""
        try:
            async with asyncio.timeout(HEAR_S) as turn, self.hearing, self.door.reading():
                turn.reschedule(None)
                return await run_in_threadpool(work)
        except TimeoutError:
            raise UserError(f"networks were busy with other sounds for {HEAR_S:g} s: try again when less is going on") from None


def _told(handler: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """A handler's answer as JSON; what a user can mend as one line, with status 400."""

    async def answer(request: Request) -> Response:
        try:
            found = await handler(request)
        except UserError as error:
            return JSONResponse({"error": " ".join(str(error).split())}, 400)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)


async def _json(request: Request) -> dict:
    if "application/json" not in request.headers.get("content-type", ""):
        raise UserError("a request here is JSON")
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError("a request here is a JSON object")
    return found


def _number(text: object) -> int:
    if not re.fullmatch(r"-?\d{1,18}", str(text).strip()):  # more digits than the warehouse has
        raise UserError(f"{str(text)[:40]!r} is no whole number of at most 18 digits")
    return int(str(text))


def serve(serving: Serving, host: str, port: int) -> None:
    """Serve until a signal ends it; the address, with its token, is printed first. Raises UserError where nothing can be served."""
    if not (serving.site / "index.html").is_file():
        raise UserError(f"there is no site at {serving.site}: make one with `auricle report`, or name another with --site")
    store.connect_readonly(serving.warehouse).close()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}; choose another --port"
        ) from None
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    shown = f"[{host}]" if ":" in host else host
    own = {shown.lower(), "localhost", "127.0.0.1", "[::1]"} | ({socket.gethostname().lower()} if host in ANY else set())

    async def run() -> None:
        server = Server(serving)
        guard = Guard(server.app(), token, frozenset(own), port, serving.most_bytes, host in ANY)
        config = uvicorn.Config(
            guard, log_level="warning", access_log=False, ws="none", lifespan="off", server_header=False, timeout_graceful_shutdown=2
        )
        await server.console.refill()
        print(f"http://{'127.0.0.1' if host in ANY else shown}:{port}/?token={token}", flush=True)
        try:
            await uvicorn.Server(config).serve([listening])
        finally:
            await server.console.close()

    asyncio.run(run())
