"""One page of an atlas as one file that needs no other: for mail, supplements and talks."""

from __future__ import annotations

import base64
import json
import mimetypes
import posixpath
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from report import contents
from report.contents import Contents
from report.folder import GENERATOR, replace
from warehouse.store import UserError, connect_readonly

SINGLE = '<meta name="generator" content="Auricle page">'
HEAD = re.compile(
    r'<header class="?top.*?</header>|<a class="skip".*?</a>|<link rel="?(?:prev|next)[^>]*>|<nav class="turn".*?</nav>|<base [^>]*>'
    r'|<a rel="?(?:prev|next).*?</a>',
    re.DOTALL,
)
BASE = re.compile(r'<base href="([^"]*)">')
SCRIPT = re.compile(r'<script defer src="?([^" >]*)"?></script>\n?')
STYLE = re.compile(r'<link rel="?stylesheet"? href="?([^" >]*)"?>')
ADDRESS = re.compile(r' (src|href)=(?:"([^"]*)"|([^\s">]+))')
PICTURE = re.compile(r'(?m)^(\.(?:cards|sounds) )\[href=("[^"]*")\](.*?)(url\((.*?)\))?\}$')
"""A line of a layer's style sheet of clips: what is said of one, or its picture."""
ICON = '<link rel="icon" href="data:,">'
END, ESCAPED = re.compile("</(?=script)", re.IGNORECASE), r"<\\/"
"""What would end a script within it, and how it is written there."""
WITHOUT = ("search.js",)
"""Scripts that would find nothing."""


def build_single(warehouse: Path, site: Path, what: str | None, target: Path | None) -> Path:
    """Write a page of the atlas in `site` to `target`, with its sounds, pictures, scripts and styles inside; what leads to other pages is text.

    `what` is a neuron (LAYER:UNIT, of the first study that has it), a class (class:NAME), a cluster (LAYER:cluster-NAME, as its address has it) or the
    address of any page (networks/NAME/index.html). Returns the path. Raises UserError where there is no such page, or the file cannot be written or
    would replace one that is none of Auricle's.
    """
    if what is None or target is None:
        raise UserError("--single and --to go together: auricle report --single LAYER:UNIT --to FILE.html")
    with connect_readonly(warehouse) as con:
        address = _address(what, contents.read(con))
    page = site / address
    if ".." in Path(address).parts or not page.is_file():
        raise UserError(f"{site} has no page {address}: make it with `auricle report --site {site}`")
    try:
        if target.exists() and (
            not target.is_file()
            or not {SINGLE, GENERATOR} & set(re.findall("<meta name=.generator[^>]*>", target.read_text("utf-8", "replace")))
        ):
            raise UserError(f"{target} was not made by Auricle and would be overwritten: name another with --to")
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(target, _whole(page.read_text("utf-8"), site, address).encode())
    except OSError as error:
        raise UserError(f"cannot write the page: {error.strerror or error} ({error.filename or target})") from error
    return target


def _address(what: str, shown: Contents) -> str:
    """The page of a name."""
    if what.endswith(".html"):
        return what
    place, colon, name = what.rpartition(":")
    if not colon:
        raise UserError(f"{what} names no page: give LAYER:UNIT, class:NAME, LAYER:cluster-NAME or a page's address in the atlas")
    if place == "class":
        for dataset in shown.datasets:
            for its in dataset.classes.values():
                if its.name.replace("_", " ") == name.replace("_", " "):
                    return its.page
        raise UserError(f"there is no class {name}")
    layers = [layer for study in shown.studies for layer in study.by_first if layer.name == place]
    if not layers:
        raise UserError(
            f"there is no layer {place}: {', '.join(dict.fromkeys(layer.name for study in shown.studies for layer in study.by_first))}"
        )
    if not name.isdecimal():
        return f"{layers[0].folder}/{name}.html"
    for layer in layers:
        if int(name) in layer.units:
            return f"{layer.folder}/{layer.file(layer.first + layer.units.index(int(name)))}"
    raise UserError(f"layer {place} has no neuron {name}: {len(layers[0].units)} from {layers[0].units[0]} to {layers[0].units[-1]}")


def _whole(text: str, site: Path, address: str) -> str:
    """A page's text with all it needs in it."""
    folder = posixpath.dirname(address)
    if base := BASE.search(text):
        folder = posixpath.normpath(posixpath.join(folder, base[1]))

    def file(link: str) -> Path | None:
        """The file of the atlas that a link leads to."""
        if not link or ":" in link or link.startswith("#"):
            return None
        path = site / posixpath.normpath(posixpath.join(folder, unquote(unescape(link).split("#")[0].split("?")[0])))
        return path if path.is_file() and path.resolve().is_relative_to(site.resolve()) else None

    def data(path: Path) -> str:
        return f"data:{mimetypes.guess_type(path.name)[0]};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def inner(found: re.Match) -> str:
        name, link = found[1], found[2] or found[3] or ""
        if link.startswith(("#", "data:", "http:", "https:", "mailto:")):
            return found[0]
        path = file(link)
        kind = mimetypes.guess_type(path.name)[0] if path else None
        if path is None or kind is None or kind == "text/html":  # citations need links to runs, and style sheets those to clips
            return f' data-run-link="{link}"' if "runs.html#run-" in link else f' data-link="{link}"'
        return f' {name}="{data(path)}"'

    sounds: dict[str, str] = {}

    def pictured(style: Path) -> str:
        """A style sheet with the pictures, and beside it the sounds, of the clips on the page, which no longer links to theirs."""

        def line(found: re.Match) -> str:
            if f"href={found[2][1:-1]}>" not in text:
                return ""
            said = found[3]
            if found[5]:
                picture = (style.parent / found[5]).resolve()
                stem = picture.name.split("-")[0]
                if (sound := site / f"audio/{stem}.mp3").is_file():
                    sounds[stem] = data(sound)
                said += f'url("{data(picture)}#spectrograms/{stem}-")'
            return f"{found[1]}[data-link={found[2]}]{said}}}"

        return PICTURE.sub(line, style.read_text("utf-8").replace('@charset "utf-8";', ""))

    styles = [pictured(path) for link in STYLE.findall(text) if (path := file(link))]
    text = HEAD.sub("", text.replace(GENERATOR, ""))
    text = text.replace("<head>", f"<head>\n{SINGLE}" + ("" if 'rel="icon"' in text else f"\n{ICON}"), 1)
    scripts = [path for link in SCRIPT.findall(text) if (path := file(link)) and path.name not in WITHOUT]
    if scripts and "data-neuron=" in text and (taking := site / "static/take.js").is_file():
        scripts.append(taking)  # which atlas.js asks for where it is a file of its own
    if (site / "cite.js").is_file():
        scripts.insert(0, site / "cite.js")
    text = ADDRESS.sub(inner, STYLE.sub("", SCRIPT.sub("", text)))
    text = re.sub(r' data-root="[^"]*"', ' data-root=""', text)
    heard = f"<script>AURICLE_SOUNDS={json.dumps(sounds)}</script>\n" if sounds else ""
    # Deferred scripts run when the page is there; in the page they stand at its end, in their order.
    code = "".join([f"<script>{END.sub(ESCAPED, path.read_text('utf-8'))}</script>\n" for path in scripts])
    head, _, rest = text.partition("</head>")
    start, _, end = rest.rpartition("</body>")
    return f"{head}<style>{''.join(styles)}</style>\n</head>{start}{heard}{code}</body>{end}"
