"""What holds for all tests: none writes into the home directory."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Text vectors are cached in a folder of this run; programs that tests start inherit it."""
    before = os.environ.get("TAILDISTILL_CACHE")
    os.environ["TAILDISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TAILDISTILL_CACHE"]
    else:
        os.environ["TAILDISTILL_CACHE"] = before
