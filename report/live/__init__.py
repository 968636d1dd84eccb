"""The atlas served on this machine, with what needs a server: the SQL console, silencing, listening, lists and votes."""

from __future__ import annotations

from types import ModuleType

from warehouse.store import UserError


def load() -> ModuleType:
    """What serves: module app. Raises UserError where the packages for it are missing."""
    try:
        import python_multipart  # noqa: F401  # which starlette needs for forms, and says so only when one comes
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}, which is not installed: pip install 'auricle[serve]'") from None
    from report.live import app

    return app
