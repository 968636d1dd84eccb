"""The captioner that says what a tagging network hears."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ingest.language.acoustic import LONGEST_S, describe, shortened
from ingest.language.captions import Caption, clean_up
from ingest.networks.network import Network
from ingest.sounds import acoustics
from ingest.sounds.sound import SoundError, decode, fit
from warehouse.store import UserError

MAX_TAGS = 3
LOG_LENGTH = 10  # class scores kept in a caption's raw text
Activation = Literal["none", "sigmoid", "softmax"]


# --- By another network's classes ---------------------------------------------------------------------------------------------------------


class Tags:
    """Says the classes that a classifier hears, one a sentence, and the measurements after them.

    A class is said when its score, the highest over the network's windows, is at least `threshold` and `share` of the clip's best, up to
    three of them; AudioSet's class Silence only when no other is. `activation` makes scores of the network's outputs; by default it is
    sigmoid or softmax by what the network was trained for, and none where the network ends in one. Dissecting the network whose classes
    these are would be circular: see `circular_for`.
    """

    name = "tags"

    def __init__(
        self,
        network: Network,
        *,
        acoustic: bool = True,
        threshold: float = 0.2,
        share: float = 0.4,
        activation: Activation | None = None,
        batch: int = 8,
    ) -> None:
        """Raises UserError for a network without class names."""
        if not network.output_names:
            raise UserError(f"{network.name} names no classes, so it cannot say what it hears: choose a classifier such as yamnet")
        self.network, self.acoustic, self.threshold, self.share, self.batch = network, acoustic, threshold, share, batch
        self.activation = activation or last_activation(network)
        self.names = [" ".join(clean_up(name).split())[:100] or f"class {index}" for index, name in enumerate(network.output_names)]

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {
            "network": self.network.name,
            "network_sha256": self.network.checkpoint_sha256,
            "clip_s": self.network.clip_s,
            "acoustic": acoustics.VERSION if self.acoustic else None,
            "threshold": self.threshold,
            "share": self.share,
            "activation": self.activation,
        }

    def circular_for(self, target: Network) -> bool:
        """Whether these captions would explain `target` by its own classes: it is this network, or has its weights."""
        return target.name == self.network.name or target.checkpoint_sha256 == self.network.checkpoint_sha256

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; a file that cannot be read, or of which nothing can be said, has none."""
        return [caption for start in range(0, len(paths), self.batch) for caption in self._batch(paths[start : start + self.batch])]

    def _batch(self, paths: Sequence[Path]) -> Iterator[Caption]:
        sounds: list[tuple[np.ndarray, int] | str] = []
        for path in paths:
            try:
                sounds.append(decode(path, middle_s=LONGEST_S)[:2])
            except SoundError as error:
                sounds.append(str(error))
        heard = [sound for sound in sounds if not isinstance(sound, str)]
        fitted = [fit(*sound, sample_rate_hz=self.network.sample_rate_hz, clip_s=self.network.clip_s) for sound in heard]
        scores = iter(self.scores([waveform for waveform, _ in fitted], [valid_s for _, valid_s in fitted]))
        for sound in sounds:
            yield Caption(None, "", sound) if isinstance(sound, str) else self._said(*sound, next(scores))

    def scores(self, waveforms: Sequence[np.ndarray], valid_s: Sequence[float]) -> np.ndarray:
        """Scores [clips, classes] from 0 to 1 of waveforms of the network's length [samples], the highest over a clip's windows; `valid_s` are
        the seconds of sound in each."""
        import torch

        from ingest.networks.passes import prepared, stack

        if not waveforms:
            return np.zeros((0, len(self.names)))
        with torch.inference_mode():
            outputs = self.network.forward(prepared(self.network, stack(list(zip(waveforms, valid_s, strict=True))))).float()
            if self.activation != "none":
                outputs = outputs.sigmoid() if self.activation == "sigmoid" else outputs.softmax(dim=-1)
            windows = outputs.unflatten(0, (len(waveforms), self.network.windows)).cpu().double().numpy()
        return np.fmax.reduce(windows, axis=1)  # windows without sound are NaN

    def _said(self, mono: np.ndarray, rate_hz: int, scores: np.ndarray) -> Caption:
        ranked = [int(index) for index in np.argsort(-scores, kind="stable")]  # NaN comes last and is never said
        lowest = max(self.threshold, self.share * float(np.nan_to_num(scores).max()))
        heard = [index for index in ranked if scores[index] >= lowest]
        heard = [index for index in heard if self.names[index].lower() != "silence"] or heard
        said = [f"This sounds like {_spoken(self.names[index])}." for index in heard[:MAX_TAGS]]
        kept: dict[str, object] = {
            "classes": {self.names[index]: round(float(scores[index]), 4) for index in ranked[:LOG_LENGTH] if scores[index] >= 0}
        }
        if self.acoustic:
            found = acoustics.measure(mono, rate_hz)
            said += describe(found)
            kept["measurements"] = shortened(found)
        raw = json.dumps(kept)
        return Caption(" ".join(said), raw, None) if said else Caption(None, raw, f"no class scores {self.threshold:g} or more")


def last_activation(network: Network) -> Activation:
    """What turns a network's outputs into scores: nothing where its last module does, sigmoid for several classes at once, else softmax."""
    from torch import nn

    if isinstance(list(network.module.modules())[-1], (nn.Sigmoid, nn.Softmax)):
        return "none"
    config: Any = getattr(getattr(network.module, "model", None), "config", None)
    return "sigmoid" if getattr(config, "problem_type", None) == "multi_label_classification" else "softmax"


def _spoken(name: str) -> str:
    """A class name within a sentence; AudioSet's names give synonyms after commas."""
    words = re.sub(r"[\s_]+", " ", name.rstrip(".!? "))
    return (words[:1].lower() + words[1:] if words[1:2].islower() else words).replace(", ", " or ")
