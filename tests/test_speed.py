"""A guard against slow renderers: a ratio to PyTorch on the same machine in the same minute, never a time.

Both run on one thread and are charged what the CPU spends on them, so that neighbours hardly count."""

from __future__ import annotations

import time

import numpy as np
import pytest
from synctalk import _native
from synctalk.backends import HeadRequest, create_backend
from synctalk.bench.field import Baseline, field_work, race
from synctalk.bundle import open_bundle
from synctalk.cli import DEMO

LEAST_RATIO = {"portable": 1.0}
"""Whole heads over the bare field in eager PyTorch: two thirds of what a busy machine shows."""


@pytest.mark.speed
def test_native_renderer_is_several_times_faster_than_eager_pytorch() -> None:
    pytest.importorskip("torch", reason="the trainer's extra is not installed")
    from synctalk_trainer.bundle_field import baselines

    bundle = open_bundle(DEMO / "demo.avatar")
    tensors, before = bundle.tensors, _native.threads()
    request = HeadRequest(
        camera=bundle.manifest.camera,
        rotation=tensors["track.rotation"][0],
        translation=tensors["track.translation"][0],
        condition=np.asarray(tensors["condition.mean"], np.float32),
        expression=tensors["track.expression"][0],
        appearance=tensors["field.appearance"],
    )
    work = field_work(bundle, [request])
    eager = baselines(bundle, threads=1)["torch_eager"]
    assert isinstance(eager, Baseline)
    least = LEAST_RATIO.get(_native.simd(), 2.0)
    try:
        backend = create_backend("native-cpu", bundle, threads=1, detail="full")
        for _ in range(3):  # a neighbour can spoil a race, and no neighbour can win one
            rate, rates = race(work, backend, {"torch_eager": eager}, rounds=3, clock=time.process_time)
            if rate / rates["torch_eager"] >= least:
                break
    finally:
        _native.set_threads(before)
    assert rate / rates["torch_eager"] >= least
