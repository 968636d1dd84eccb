"""What tests in any folder need."""

from pathlib import Path

import pytest

from ingest.networks.fetch import fetch
from warehouse.store import UserError


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The sentence encoder in the cache, fetched when it is not; where it cannot be, tests that need it are skipped."""
    try:
        return fetch("minilm")
    except UserError as error:
        pytest.skip(str(error))
