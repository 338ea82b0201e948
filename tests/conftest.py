"""What every test gets: fixed seeds, and caches of its own. Files of slow tests come first."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No worker is left alone with a long file in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tests away from the user's caches: neither read (a stale sampling) nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """A test gives the same result alone and after others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def quick_morphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Motions of morphs on small grids and in few steps."""
    from hyperfields.fields.flow import Level
    from hyperfields.tasks import morphs

    monkeypatch.setattr(morphs, "CELLS", 32)
    monkeypatch.setattr(morphs, "REACH", 2)
    monkeypatch.setattr(morphs, "SOLID_LEVELS", (Level(4, 9, 30),))
    monkeypatch.setattr(morphs, "PICTURE_LEVELS", (Level(4, 13, 50),))
