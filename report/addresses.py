"""Addresses of pages: short, safe on every file system, different for different names, and the same from one report to the next."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST = 48
TAKEN = {"index", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""`index.html` is a folder's own page; the others are device names on Windows, whatever their ending."""


def slug(name: str) -> str:
    """The letters, digits, dots, dashes and underscores of a name in lower case; empty when it has none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain)[:LONGEST].strip("-._")


def slugs(names: Iterable[str]) -> list[str]:
    """One slug per name, all different. Where two names would share one, the first keeps it and the others get a piece of their hash.

    Names come in a fixed order (by number in the warehouse), so that what is added later never changes an address given before.
    """
    seen: set[str] = set()
    out = []
    for name in names:
        short = slug(name)
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        length = 6
        chosen = short
        while not chosen or chosen in seen or chosen.split(".")[0] in TAKEN:
            chosen = f"{short}-{digest[:length]}".strip("-") if length <= 64 else f"{digest}-{len(seen)}"
            if chosen.split(".")[0] in TAKEN:
                chosen = f"x-{chosen}"
            length += 6
        seen.add(chosen)
        out.append(chosen)
    return out
