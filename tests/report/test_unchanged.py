"""Pages keep their addresses and every byte: a site made by an earlier version is left as it is by the next report.

`golden/pages.json` has the hash of each page of the fixtures' sites, as the report made them before it had topics. Whoever means to change
pages writes it anew with `GOLDEN=1 python -m pytest tests/report/test_unchanged.py`, and sees in its diff which ones changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "pages.json"
OTHERS = ("schema.html", "cookbook.html")
"""These follow from the schema and from DuckDB's version."""


def hashes(site: Path) -> dict[str, str]:
    """By address, a hash of each page and of the search index, without the folder that sounds were read from."""
    found = {}
    for path in sorted([*site.rglob("*.html"), site / "search.js"]):
        text = path.read_bytes().replace(str(site.parent).encode(), b"FOLDER")
        found[path.relative_to(site).as_posix()] = hashlib.sha256(text).hexdigest()[:16]
    return {address: digest for address, digest in found.items() if address not in OTHERS}


@pytest.mark.parametrize("name", ["built", "described"])
def test_pages_are_as_they_were(name, request):
    found = hashes(request.getfixturevalue(name)[1])
    golden = json.loads(GOLDEN.read_text("utf-8"))
    if os.environ.get("GOLDEN"):
        GOLDEN.write_text(json.dumps(golden | {name: found}, ensure_ascii=False, indent=0) + "\n", "utf-8")
        return
    assert found.keys() == golden[name].keys()
    assert [address for address, digest in found.items() if digest != golden[name][address]] == []
