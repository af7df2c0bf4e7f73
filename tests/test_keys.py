"""Private files: made once, however many want them at the same time."""

from __future__ import annotations

import secrets
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from synctalk.errors import SyncTalkError
from synctalk.keys import private_file

N_CALLERS = 8


def test_all_who_ask_at_once_get_one_key(tmp_path: Path) -> None:
    path, gate = tmp_path / "new" / "some.key", threading.Barrier(N_CALLERS)

    def make() -> bytes:
        gate.wait(10.0)  # every caller has found no file
        return secrets.token_bytes(16)

    with ThreadPoolExecutor(N_CALLERS) as pool:
        keys = set(pool.map(lambda _: private_file(path, make), range(N_CALLERS)))
    assert keys == {path.read_bytes()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["some.key"]


def test_a_folder_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SyncTalkError, match="SYNCTALK_CONFIG_DIR"):
        private_file(tmp_path / "file" / "some.key", bytes)
