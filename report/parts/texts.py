"""Texts: what models wrote, cut to what a page can hold, its whole length staying in the warehouse; counts; names of reductions."""

from __future__ import annotations

REDUCTIONS = {"mean": "mean over time", "max": "maximum over time", "cls": "first token", "window_mean": "mean over windows"}


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
