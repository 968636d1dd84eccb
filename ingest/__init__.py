"""Expensive, resumable stages that write the warehouse."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Where notebooks and networks' own files written before there were rooms look for an adapter.
MOVED = {f"ingest.{name}": f"ingest.networks.{name}" for name in ("beats", "clap", "m2d", "whisper", "yamnet")}
MOVED["ingest.networks.discovery"] = "ingest.networks.network"


class _Moved(MetaPathFinder, Loader):
    """An old address gives the module itself, not a second copy of it."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


sys.meta_path.append(_Moved())
