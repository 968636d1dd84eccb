"""Files of the site, and of the server's own pages, with the script that shows what a server can do put into every page."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

STATIC = Path(__file__).parent / "static"
STYLE = '<link rel="stylesheet" href="/live/static/live.css">\n</head>'
SCRIPT = '<head>\n<script defer src="/live/static/live.js"></script>'
"""Before the page's own scripts, some of which need it."""


def page(text: str) -> Response:
    """A page with the server's script and style."""
    return HTMLResponse(text.replace("<head>", SCRIPT, 1).replace("</head>", STYLE, 1))


def file(root: Path, path: str) -> Response:
    """A file below a folder. Raises HTTPException 404 for what is not there, and for whatever leads out of the folder."""
    parts = [part for part in path.split("/") if part]
    if "\0" in path or "\\" in path or any(part.startswith(".") for part in parts):
        raise HTTPException(404, "there is no such page")
    try:
        home = root.resolve()
        found = home.joinpath(*parts).resolve()
        if found.is_dir():
            found = found / "index.html"
        is_there = found.is_relative_to(home) and found.is_file()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        raise HTTPException(404, "there is no such page")
    if found.suffix == ".html":
        return page(found.read_text("utf-8"))
    return FileResponse(found)
