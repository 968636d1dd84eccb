"""A clip as every page shows it: spectrogram, player, classes, name, and where there are any, the course of a neuron's activation and a
caption."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from report.contents import Dataset, View
from report.media import Media, audio_path, spectrogram_path
from report.parts.svg import LEVELS
from report.parts.texts import cut

CAPTION = 160
"""Characters of a caption; the clip's page has all of it."""


class Cards:
    """Writes clips' cards for pages that lie `depth` folders below the site's root, with `captions` by clip below them. Everything that does
    not change is written once."""

    def __init__(self, dataset: Dataset, view: View, media: Media, depth: int, captions: Mapping[int, str] | None = None) -> None:
        self.dataset = dataset
        self.captions = captions or {}
        self.view = view
        self.media = media
        self.root = "../" * depth
        self._parts: dict[int, tuple[str, str, str]] = {}

    def card(self, clip_id: int, value: str = "", course: str = "", steps: int = 0) -> str:
        """One list item. `value` is text put first, `course` path data over `steps` steps."""
        parts = self._parts.get(clip_id) or self._write(clip_id)
        line = f'<svg viewBox="0 0 {steps} {LEVELS}" preserveAspectRatio="none" aria-hidden="true"><path d="{course}"/></svg>'
        return f"{parts[0]}{line if course else ''}{parts[1]}{value}{parts[2]}"

    def classes(self, clip_id: int) -> str:
        """Links to the clip's classes; a name that stands in several label sets is shown once."""
        by_name = {self.dataset.classes[c].name: self.dataset.classes[c] for c in reversed(self.dataset.clips[clip_id].classes)}
        links = [f'<a href="{self.root}{c.page}">{escape(c.name)}</a>' for c in reversed(by_name.values())]
        return ", ".join(links) or "unlabelled"

    def picture(self, clip_id: int) -> str:
        """The clip's spectrogram."""
        clip = self.dataset.clips[clip_id]
        alt = f"Spectrogram of {self.dataset.label(clip)} clip {clip.title}: {self.view.clip_s:g} s"
        return f'<img src="{self.root}{spectrogram_path(clip, self.view)}" alt="{escape(alt)}" loading="lazy">'

    def player(self, clip_id: int) -> str:
        """The clip's player."""
        return f'<audio controls preload="none" src="{self.root}{audio_path(self.dataset.clips[clip_id])}"></audio>'

    def _write(self, clip_id: int) -> tuple[str, str, str]:
        clip = self.dataset.clips[clip_id]
        start = clip.start_s(self.view.clip_s)
        offset = f' data-start="{start:.3f}"' if start >= 0.01 else ""
        name = f'<p>{self.classes(clip_id)} <a class="clip" href="{self.root}{clip.page}">{escape(clip.title)}</a></p>'
        said = self.captions.get(clip_id)
        end = f'<p class="says">{escape(cut(said, CAPTION))}</p></li>' if said is not None else "</li>"
        if (reason := self.media.missing.get(clip.stem)) is not None:
            parts = f'<li class="card"><div class="s gone"><span>No sound: {escape(reason)}</span>', f"</div>{name}", end
        else:
            parts = f'<li class="card"{offset}><div class="s">{self.picture(clip_id)}', f"</div>{self.player(clip_id)}{name}", end
        self._parts[clip_id] = parts
        return parts
