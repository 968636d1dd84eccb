"""Serving without the packages that it takes."""

import sys

import pytest

from report.live import load
from warehouse.store import UserError


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_what_is_missing_is_said_with_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"^serving needs the package \w+, which is not installed: pip install 'auricle\[serve\]'$"):
        load()
