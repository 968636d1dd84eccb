"""Target networks: what the extraction needs to know of one, adapters, and the names under which they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.networks.network import Layer, Network, discover_layers

__all__ = ["Layer", "Network", "discover_layers"]


def __getattr__(name: str) -> object:
    """These three when they are asked for: who only wants to know where weights lie need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ingest.networks import network

    return getattr(network, name)
