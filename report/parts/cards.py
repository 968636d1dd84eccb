"""A clip as pages show it: spectrogram, player, classes, name, and where there are any, the course of a neuron's activation and a
caption; on neurons' pages, of which there are many, in few bytes, from which atlas.js makes the rest."""

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
        self._brief: dict[int, str] = {}
        self.linked: dict[int, str] = {}

    def card(self, clip_id: int, value: str = "", course: str = "", steps: int = 0) -> str:
        """One list item. `value` is text put first, `course` path data over `steps` steps."""
        parts = self._parts.get(clip_id) or self._write(clip_id)
        line = f'<svg viewBox="0 0 {steps} {LEVELS}" preserveAspectRatio="none" aria-hidden="true"><path d="{course}"/></svg>'
        return f"{parts[0]}{line if course else ''}{parts[1]}{value}{parts[2]}"

    def brief(self, clip_id: int, value: str, fact: str = "") -> str:
        """One list item of a page whose base is the folder of the clips' pages, and which takes its layer's style sheet of clips: `value`, a link to the
        clip's page, and `fact` below. The style sheet has the classes, the picture, the name and the caption, atlas.js the player."""
        said = f"<p>{fact}" if fact else ""
        return f"<li>{value}{self._brief.get(clip_id) or self._write_brief(clip_id)}{said}"

    def link(self, clip_id: int) -> str:
        """A link of such a page to a clip's; the style sheet has its text. `linked` has the addresses of all clips that were asked for."""
        at = self.linked.get(clip_id) or self.linked.setdefault(clip_id, self.dataset.clips[clip_id].page.rpartition("/")[2])
        return f"<a href={at}></a>"

    def _write_brief(self, clip_id: int) -> str:
        reason = self.media.want(self.dataset.clips[clip_id], self.view)
        made = self._brief[clip_id] = self.link(clip_id) + (f"<p>No sound: {escape(reason)}" if reason is not None else "")
        return made

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
        if (reason := self.media.want(clip, self.view)) is not None:
            parts = f'<li class="card"><div class="s gone"><span>No sound: {escape(reason)}</span>', f"</div>{name}", end
        else:
            parts = f'<li class="card"{offset}><div class="s">{self.picture(clip_id)}', f"</div>{self.player(clip_id)}{name}", end
        self._parts[clip_id] = parts
        return parts
