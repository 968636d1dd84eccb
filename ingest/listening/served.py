"""What `auricle serve` runs networks for: silencing neurons on a clip or a sent sound, and listening to one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.listening.answers import Answer
from ingest.listening.sounds import File, Sound, read_sounds
from ingest.sounds.sound import SoundError, length_s
from warehouse import store
from warehouse.containers import is_there
from warehouse.store import UserError

if TYPE_CHECKING:  # a server starts without torch
    from ingest.listening.ear import Ear

KEPT = 2
"""Networks that stay loaded."""
LONGEST_S = 600.0
"""Seconds of a sound that is sent; a small file can hold days of silence."""
SHOWN, SHOWN_HIGHEST = 20, 5
"""Outputs shown: those that change most, and the highest of the network as it is."""


class Ears:
    """Networks of a warehouse, loaded when they are first asked for; `specs` are what networks were ingested from that their names do not say."""

    def __init__(self, warehouse: Path, specs: Sequence[str] = (), device: str = "auto") -> None:
        self.warehouse, self.specs, self.device = warehouse, tuple(specs), device
        self._open: dict[int, Ear] = {}

    def ear(self, run: int) -> Ear:
        """The network of a run. Raises UserError where it cannot be had."""
        from ingest.listening.ear import open_ear

        if run not in self._open:
            wrong: list[UserError] = []
            for spec in (*self.specs, None):
                try:
                    found = open_ear(self.warehouse, network=spec, run_id=run, device=self.device)
                    break
                except UserError as error:
                    wrong.append(error)
            else:
                raise wrong[0]
            while len(self._open) >= KEPT:
                self._open.pop(next(iter(self._open)))
            self._open[run] = found
        return self._open[run]

    def listen(self, run: int, sound: Path) -> dict[str, Any]:
        """What a sound's neurons do, as fields of report.listening.Listening."""
        from ingest.listening.listen import listen

        ear = self.ear(run)
        heard = self._sent(ear, sound)
        return Answer(ear, [heard], [], (heard.name, ""), listen(ear, [heard])).shown()

    def silence(self, place: tuple[int, int], units: str, sound: int | Path, draws: tuple[int, int]) -> dict[str, Any]:
        """What silencing neurons of a run's layer (both by number) does to the outputs on a clip (by its number) or a file, as the page draws it,
        beside random ones (`draws`: how many times, and their seed).

        `units` are numbers within the layer, of single positions neuron_ids.
        """
        from ingest.listening.silencing import read_units, silence

        run, number = place
        ear = self.ear(run)
        layer = next((its for its in ear.places if its.layer_id == number), None)
        if layer is None:
            raise UserError(f"run {run} has no layer of number {number}")
        heard = self._sent(ear, sound) if isinstance(sound, Path) else self._clip(ear, sound)
        positions = bool(ear.run.parameters.get("positions"))
        first, live = self._living(run, number)
        chosen = read_units(units) - (first if positions else 0)
        found = silence(
            ear.network, layer.layer, chosen, live, heard.samples, heard.heard_s, draws=draws[0], seed=draws[1], positions=positions
        )  # fmt: skip
        names = ear.network.output_names or []
        named = [str(name) for name in names] if len(names) == len(found.intact) else [str(number) for number in range(len(found.intact))]
        change = np.abs(found.silenced - found.intact)
        order = list(
            dict.fromkeys([*np.argsort(-change, kind="stable")[:SHOWN], *np.argsort(-found.intact, kind="stable")[:SHOWN_HIGHEST]])
        )
        low, high = found.random_changes.min(), found.random_changes.max()
        of = "position" if positions else "neuron"
        return {
            "title": f"{ear.network.name}, {layer.layer.name}: {len(chosen)} {of}{'' if len(chosen) == 1 else 's'} silenced",
            "heard": f"{heard.name}, {heard.part}",
            "draws": draws[0],
            "outputs": [
                {
                    "name": named[i],
                    "intact": float(found.intact[i]),
                    "silenced": float(found.silenced[i]),
                    "mean": float(found.random[:, i].mean(dtype=np.float64)),
                    "low": float(found.random[:, i].min()),
                    "high": float(found.random[:, i].max()),
                }
                for i in order
            ],
            "note": f"{len(order)} of {len(named)} outputs: those that change most, and the highest. All outputs move by {found.change:.4g} "
            f"(Euclidean), when random ones are silenced by {low:.4g} to {high:.4g}; these are drawn from neurons that answer to some clip.",
        }

    def _living(self, run: int, layer: int) -> tuple[int, np.ndarray]:
        """The number of a layer's first neuron, and places in it of those that are not 0 on every clip of the run."""
        with store.connect_readonly(self.warehouse) as con:
            rows = con.execute(
                """SELECT neuron_id, coalesce((SELECT bool_and(is_dead) FROM activation_summary AS summary
                    WHERE summary.run_id = ? AND summary.neuron_id = neuron.neuron_id), false) AS is_dead
                FROM neuron WHERE layer_id = ? ORDER BY neuron_id""",
                [run, layer],
            ).fetchnumpy()
        ids = rows["neuron_id"]
        return int(ids[0]), np.flatnonzero(~np.asarray(rows["is_dead"], dtype=bool))

    def _sent(self, ear: Ear, path: Path) -> Sound:
        try:
            if (seconds := length_s(path)) > LONGEST_S:
                raise UserError(f"{path.name} has {seconds:.0f} s, more than {LONGEST_S:.0f}: cut it")
        except SoundError as error:
            raise UserError(f"{path.name} cannot be read: {error}") from None
        return self._read(ear, File(path.name, path))

    def _clip(self, ear: Ear, clip: int) -> Sound:
        with store.connect_readonly(self.warehouse) as con:
            rows = con.execute(
                """SELECT clip.name, source, sha256 FROM activation_clip JOIN clip USING (clip_id) JOIN dataset USING (dataset_id)
                WHERE activation_clip.run_id = ? AND clip_id = ?""",
                [ear.run.run_id, clip],
            ).fetchall()
        if not rows:
            raise UserError(f"run {ear.run.run_id} heard no clip {clip}")
        [(name, source, sha256)] = rows
        # As the atlas finds a clip: in the folder of its data set, or in that folder's audio/.
        paths = [path for folder in (Path(source), Path(source) / "audio") if is_there(path := folder / name)]
        if not paths or store.sha256_file(paths[0]) != sha256:
            raise UserError(f"clip {name} is no longer there as it was ingested, in {source}")
        return self._read(ear, File(name, paths[0]))

    def _read(self, ear: Ear, file: File) -> Sound:
        network = ear.network
        try:
            [sound] = read_sounds(
                [file], sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s, shortest_s=network.shortest_s, named=[file.path],
                say=lambda line: None,
            )  # fmt: skip
        except UserError as error:
            raise UserError(str(error).replace(str(file.path), file.name)) from None
        return sound
