"""The native thread pool under callers that come all at once. ``scripts/sanitize.sh thread`` runs this, too."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference_render import random_head
from synctalk import _native
from synctalk.spec import GridSpec
from test_renderer import TINY, rendered

N_CALLERS = 4


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    n_threads = _native.threads()
    yield
    _native.set_threads(n_threads)


def _encoded(seed: int) -> np.ndarray:
    grid = GridSpec(n_levels=4, base_resolution=8, finest_resolution=32, log2_table_size=8)
    generator = np.random.default_rng(seed)
    tables = generator.random((3, grid.n_entries, 1)).astype(np.float32)
    levels = np.array(
        [[one.scale, one.resolution, one.size, one.offset, one.is_hashed] for one in grid.levels], float
    )
    out = np.empty((3_001, grid.n_outputs), np.float32)
    _native.grid_encode(generator.random((3_001, 3)).astype(np.float32), tables, levels, out)
    return out


def test_callers_share_the_pool_and_get_their_own_results() -> None:
    _native.set_threads(1)
    heads = [random_head(TINY, seed) for seed in range(N_CALLERS)]
    pictures, encodings = [rendered(head) for head in heads], [_encoded(seed) for seed in range(N_CALLERS)]
    _native.set_threads(3)
    with ThreadPoolExecutor(N_CALLERS) as pool:
        for _ in range(3):
            drawn = pool.map(rendered, heads)
            looked_up = pool.map(_encoded, range(N_CALLERS))
            assert all(np.array_equal(a, b) for a, b in zip(drawn, pictures, strict=True))
            assert all(np.array_equal(a, b) for a, b in zip(looked_up, encodings, strict=True))


def test_the_pool_may_change_its_size_while_it_works() -> None:
    head = random_head(TINY)
    expected = rendered(head)
    with ThreadPoolExecutor(N_CALLERS) as pool:
        drawn = [pool.submit(rendered, head) for _ in range(12)]
        for n_threads in (1, 4, 2, 3):
            _native.set_threads(n_threads)
        assert all(np.array_equal(one.result(), expected) for one in drawn)
    assert _native.threads() == 3
