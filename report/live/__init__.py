"""The atlas served on this machine, with what needs a server: the SQL console, silencing, listening, lists and votes."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from warehouse.store import UserError


def load() -> ModuleType:
    """What serves: module app. Raises UserError where the packages for it are missing."""
    try:
        for package in ("python_multipart", "starlette", "uvicorn"):  # starlette needs the first for forms, and says so only when one comes
            import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}, which is not installed: pip install 'auricle[serve]'") from None
    from report.live import app

    return app
