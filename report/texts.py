"""Text that models wrote, cut to what a page can hold. Its whole length stays in the warehouse."""

from __future__ import annotations


def cut(text: str, most: int) -> str:
    """At most `most` characters of a text on one line, whole words where they are not long; an ellipsis stands for the rest."""
    line = " ".join(text[: 2 * most].split())
    if len(line) <= most and len(text) <= 2 * most:
        return line
    start, space, last = line[: most + 1].rpartition(" ")
    return (start if space and len(last) < most / 4 else line[:most]) + "…"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
