"""Target networks: what the extraction needs to know of one, adapters, and the names under which they are loaded."""

from ingest.networks.network import Layer, Network, discover_layers

__all__ = ["Layer", "Network", "discover_layers"]
