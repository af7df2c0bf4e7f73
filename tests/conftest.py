"""No test touches the user's own keys."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_config_dir(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCTALK_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
        yield
