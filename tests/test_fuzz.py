"""Damaged and hostile bundles and sounds: they are read, or refused as the user's mistake; no crash, hang or greed.

A short run by default; a long one, with what the worst examples cost:

    pytest tests/test_fuzz.py --hypothesis-profile=long --log-cli-level=INFO
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

import av
import numpy as np
import pytest
import soundfile
from fake_avatar import write_tiny_bundle
from hypothesis import given
from hypothesis import strategies as st
from synctalk.bundle import open_bundle, packed_zip, read_members, verify_bundle
from synctalk.consent import Consent
from synctalk.errors import BundleError, MediaError
from synctalk.manifest import MANIFEST
from synctalk.media import read_audio
from synctalk.sound import SampleStream, open_sound

LIMIT_S, HANG_S = 10, 60
"""Seconds of the processor, and of the clock: the machine may be busy."""
LIMIT_MB = 400

_PLACE = st.floats(0.0, 1.0, exclude_max=True)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
        _PLACE,
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def _edited(content: bytes, edits: list[tuple[str, float, bytes]], window: int | None = None) -> bytes:
    """A content after edits at relative places, of its first ``window`` bytes if given."""
    for kind, share, piece in edits:
        at = int(share * min(len(content), window or len(content)))
        if kind == "set":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(piece) :]
        elif kind == "cut":
            content = content[:at]
        else:
            content = content[:at] + content[max(0, at - 64) : at] * len(piece) + content[at:]
    return content


@dataclass
class Costs:
    """What the worst of the examples took."""

    n_examples: int = 0
    seconds: float = 0.0
    grown_mb: float = 0.0

    def add(self, seconds: float, grown_mb: float) -> None:
        self.n_examples += 1
        self.seconds, self.grown_mb = max(self.seconds, seconds), max(self.grown_mb, grown_mb)


def _told(kind: str) -> Iterator[Costs]:
    costs, before = Costs(), _peak_mb()
    yield costs
    told = "%s: %d examples; the longest took %.0f ms; the greediest raised the peak by %.0f MB, all of them by %.0f MB"
    values = costs.n_examples, 1000 * costs.seconds, costs.grown_mb, _peak_mb() - before
    logging.getLogger(__name__).info(told, kind, *values)


@pytest.fixture(scope="module")
def bundles() -> Iterator[Costs]:
    yield from _told("bundles")


@pytest.fixture(scope="module")
def sounds() -> Iterator[Costs]:
    yield from _told("sounds")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _bounded(costs: Costs) -> Iterator[None]:
    """Fail where the block hangs or grows by more than it may."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"did not come back within {HANG_S} s")

    before, began = _peak_mb(), time.process_time()
    older = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, older)
    seconds, grown = time.process_time() - began, _peak_mb() - before
    costs.add(seconds, grown)
    assert seconds < LIMIT_S, f"took {seconds:.0f} s"
    assert grown < LIMIT_MB, f"grew by {grown:.0f} MB"


@cache
def _members() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return read_members(write_tiny_bundle(Path(folder) / "tiny.avatar"))


def _open(content: bytes, costs: Costs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.avatar"
        path.write_bytes(content)
        with _bounded(costs):
            is_sound = not verify_bundle(path)
            try:
                open_bundle(path)
            except BundleError:
                assert not is_sound
            else:
                assert is_sound


@given(edits=EDITS, at_end=st.booleans())
def test_damaged_zips(edits: list[tuple[str, float, bytes]], at_end: bool, bundles: Costs) -> None:
    """Headers and the directory, which is at the end, are most of what is edited."""
    content = packed_zip(_members())
    if at_end:
        _open(content[:-800] + _edited(content[-800:], edits), bundles)
    else:
        _open(_edited(content, edits, window=12_000), bundles)


@given(edits=EDITS)
def test_damaged_manifests(edits: list[tuple[str, float, bytes]], bundles: Costs) -> None:
    members = _members()
    _open(packed_zip(members | {MANIFEST: _edited(members[MANIFEST], edits)}), bundles)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(data=st.data(), value=VALUES)
def test_manifests_with_other_values(data: st.DataObject, value: object, bundles: Costs) -> None:
    members = _members()
    manifest = json.loads(members[MANIFEST])
    node = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    _open(packed_zip(members | {MANIFEST: json.dumps(manifest).encode()}), bundles)


@given(data=st.data())
def test_manifests_without_some_keys(data: st.DataObject, bundles: Costs) -> None:
    """As older versions wrote them, or none did."""
    members = _members()
    manifest = json.loads(members[MANIFEST])
    spec = manifest["spec"]
    for node in (manifest, spec["field"]["grid"], spec["audio"], spec["field"], spec):
        for key in data.draw(st.sets(st.sampled_from(sorted(node)), max_size=2)):
            node.pop(key)
    _open(packed_zip(members | {MANIFEST: json.dumps(manifest).encode()}), bundles)


@given(edits=EDITS)
def test_damaged_tensors_with_a_right_hash(edits: list[tuple[str, float, bytes]], bundles: Costs) -> None:
    members, name = _members(), "tensors.safetensors"
    tensors = _edited(members[name], edits, window=6000)
    manifest = json.loads(members[MANIFEST])
    manifest["files"][name] = {"sha256": hashlib.sha256(tensors).hexdigest(), "bytes": len(tensors)}
    _open(packed_zip(members | {name: tensors, MANIFEST: json.dumps(manifest).encode()}), bundles)


@cache
def _sound(form: str) -> bytes:
    """A fifth of a second of a tone in a container."""
    samples = (0.3 * np.sin(np.arange(3200) / 9)).astype(np.float32)
    buffer = io.BytesIO()
    if form in ("mp4", "matroska"):
        with av.open(buffer, "w", format=form) as container:
            stream = container.add_stream("aac", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            frame.sample_rate = 16_000
            container.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        soundfile.write(buffer, samples, 16_000, format=form)
    return buffer.getvalue()


def _read(content: bytes, costs: Costs) -> None:
    with _bounded(costs):
        try:
            samples, rate = read_audio(content)
        except MediaError:
            return
    assert samples.ndim == 1
    assert samples.dtype == np.float32
    assert len(samples)
    assert np.isfinite(samples).all()
    assert rate > 0


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "mp4", "matroska"])
@given(edits=EDITS)
def test_damaged_sounds(form: str, edits: list[tuple[str, float, bytes]], sounds: Costs) -> None:
    _read(_edited(_sound(form), edits, window=600), sounds)


@given(
    content=st.binary(max_size=2000), head=st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM"])
)
def test_noise_instead_of_a_sound(content: bytes, head: bytes, sounds: Costs) -> None:
    _read(head + content, sounds)


PIECES = st.lists(
    st.binary(max_size=60)
    | st.sampled_from([b"RIFF", b"RIFF\0\0\0\0WAVE", b"WAVEfmt \x10\0\0\0", b"data\0\0\0\0", b"fLaC"]),
    max_size=12,
)


@given(pieces=PIECES, rate=st.sampled_from([None, 8_000, 16_000, 44_100]), cut=st.integers(1, 40))
def test_bytes_as_samples(pieces: list[bytes], rate: int | None, cut: int, sounds: Costs) -> None:
    content, stream = b"".join(pieces), SampleStream(rate)
    with _bounded(sounds):
        for at in range(0, len(content), cut):
            try:
                mono = stream.push(content[at : at + cut])
            except (MediaError, ValueError):
                return
            assert mono.dtype == np.float32
            assert mono.ndim == 1
            assert not mono.size or np.abs(mono).max() <= 1.0


@given(
    edits=EDITS,
    cut=st.integers(1, 2_000),
    form=st.sampled_from(["WAV", "FLAC", "OGG", "MP3", "mp4", "matroska"]),
)
def test_damaged_sounds_in_chunks(
    edits: list[tuple[str, float, bytes]], cut: int, form: str, sounds: Costs
) -> None:
    content = _edited(_sound(form), edits, window=600)
    with _bounded(sounds):
        try:
            sound = open_sound(content[at : at + cut] for at in range(0, len(content), cut))
            pieces = list(sound)
        except (MediaError, ValueError):
            return
    assert all(np.isfinite(piece).all() for piece in pieces)


SHAPES = st.lists(st.integers(0, 12), max_size=3).map(tuple)
KINDS = st.sampled_from(["<i2", ">i2", "i4", "i8", "u1", "u2", "f2", "f4", "f8", "?", "c8", "O", "U3"])


@given(
    shapes=st.lists(SHAPES, max_size=4),
    kind=KINDS,
    value=st.sampled_from([0, 1, -1, 300, 10**6, np.nan, np.inf]),
)
def test_arrays_of_any_shape_and_type(
    shapes: list[tuple[int, ...]], kind: str, value: float, sounds: Costs
) -> None:
    with _bounded(sounds), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of making the array
        stream = SampleStream(16_000)
        for shape in shapes:
            try:
                chunk = np.full(shape, value).astype(kind)
            except (ValueError, OverflowError):
                return
            try:
                mono = stream.push(chunk)
            except (MediaError, TypeError):
                return
            assert mono.dtype == np.float32
            assert not mono.size or np.abs(mono).max() <= 1.0


@given(text=st.text(max_size=100))
def test_any_consent_text_is_read(text: str) -> None:
    consent = Consent.parse(text)
    assert Consent.parse(str(consent)) == consent
