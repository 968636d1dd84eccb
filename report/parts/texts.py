"""Texts: what models wrote, cut to what a page can hold, its whole length staying in the warehouse; counts; names of reductions."""

from __future__ import annotations

REDUCTIONS = {"mean": "mean over time", "max": "maximum over time", "cls": "first token", "window_mean": "mean over windows",
              "active": "share of values above 0"}  # fmt: skip


def cut(text: str, most: int) -> str:
    """At most `most` characters of a text on one line, whole words where they are not long; an ellipsis stands for the rest."""
    line = " ".join(text[: 2 * most].split())
    if len(line) <= most and len(text) <= 2 * most:
        return line
    start, space, last = line[: most + 1].rpartition(" ")
    return (start if space and len(last) < most / 4 else line[:most]) + "…"


def quantity(value: float, unit: str) -> str:
    """A value with its unit as descriptions say it: "5.1 kHz", "80 ms", "−52 dBFS", "60%"; shares come from 0 to 1."""
    if unit == "Hz" and abs(value) >= 1000:
        value, unit = value / 1000, "kHz"
    elif unit == "s" and abs(value) < 0.1:
        value, unit = 1000 * value, "ms"
    elif unit == "%":
        value *= 100
    if unit == "%" and 99 < value < 99.95:
        return f"{value:.1f}%"
    text = f"{value:.0f}" if unit in ("dB", "dBFS") or abs(value) >= 10 else f"{value:.2g}"
    text = ("0" if text == "-0" else text).replace("-", "−")
    return f"{text}{unit}" if unit == "%" or unit.startswith("/") else f"{text} {unit}".rstrip()


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
