"""The door for sound: entry point x type x layout x rate x chunking, each heard right or refused in words."""

from __future__ import annotations

import array
import asyncio
import io
import itertools
import os
import struct
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from synctalk import Avatar, Frame, MediaError
from synctalk.audio import resample, to_mono, whole_rate
from synctalk.media import open_mp4, read_audio, write_mp4
from synctalk.sound import SampleStream, open_sound

AVATAR = Avatar.mock()
SECONDS = 0.2
FILMED = ("save", "write_mp4", "Mp4Writer")
ENTRIES = ("speak", "push_audio", "session.speak", "sync_session.speak", *FILMED)


def tone(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A rising tone, whole 16-bit steps: exact in every type of at least 16 bits."""
    t = np.arange(int(seconds * rate)) / rate
    return np.round(9_000 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.int16)


def heard(entry: str, audio: Any, rate: int | None, folder: Path) -> tuple[np.ndarray, int]:
    """What comes out of an entry point for a sound: samples and their rate."""
    if entry in FILMED:
        film = folder / "film.mp4"
        pictures = [np.zeros((16, 16, 3), np.uint8)] * 6
        if entry == "save":
            AVATAR.save(film, audio, rate, credentials=False)
        elif entry == "write_mp4":
            write_mp4(film, pictures, 25, audio, rate)
        else:
            with open_mp4(film, 25, rate) as writer:
                writer.write(pictures[0], audio)
        return read_audio(film)
    return np.concatenate([frame.audio for frame in frames(entry, audio, rate)]), AVATAR.sample_rate


def frames(entry: str, audio: Any, rate: int | None) -> list[Frame]:
    if entry == "speak":
        return list(AVATAR.speak(audio, rate))
    if entry == "session.speak":
        return asyncio.run(_spoken(audio, rate))
    with AVATAR.sync_session(pace="fast", idle=False) as session:
        if entry == "sync_session.speak":
            return list(session.speak(audio, rate))
        assert rate is not None
        session.push_audio(audio, rate)
        session.flush()
        return list(session.run(until="drained"))


async def _spoken(audio: Any, rate: int | None) -> list[Frame]:
    async with AVATAR.session(pace="fast", idle=False) as session:
        return [frame async for frame in session.speak(audio, rate)]


def check(got: np.ndarray, got_rate: int, rate: int, entry: str) -> None:
    expected = tone(rate) / 32_768
    if entry not in FILMED:
        np.testing.assert_allclose(got, resample(expected, rate, got_rate), atol=2e-4)
        return
    assert got_rate == rate
    n = min(len(got), len(expected))
    assert abs(len(got) - len(expected)) < 2_500
    inside = slice(n // 8, n - n // 8)
    assert np.corrcoef(got[inside], expected[inside])[0, 1] > 0.99
    assert np.std(got[inside]) == pytest.approx(np.std(expected[inside]), rel=0.05)


def torch_tensor(samples: np.ndarray, kind: str = "float32") -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra [train]")
    return torch.from_numpy(samples / 32_768).to(getattr(torch, kind))


TYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "int16": lambda s: s,
    "big-endian int16": lambda s: s.astype(">i2"),
    "int32": lambda s: s.astype(np.int32) << 16,
    "int64": lambda s: s.astype(np.int64),
    "float32": lambda s: (s / 32_768).astype(np.float32),
    "float64": lambda s: s / 32_768,
    "list of ints": lambda s: s.tolist(),
    "list of floats": lambda s: (s / 32_768).tolist(),
    "tuple": lambda s: tuple(s.tolist()),
    "array.array": lambda s: array.array("h", s.tolist()),
    "memoryview of int16": lambda s: memoryview(np.ascontiguousarray(s)),
    "tensor": torch_tensor,
    "tensor with gradient": lambda s: torch_tensor(s).requires_grad_(),
    "float64 tensor": lambda s: torch_tensor(s, "float64"),
    "bytes": lambda s: s.tobytes(),
    "bytearray": lambda s: bytearray(s.tobytes()),
    "memoryview": lambda s: memoryview(s.tobytes()),
}
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "[n, 1]": lambda s: s[:, None],
    "[n, 2]": lambda s: np.stack([s, s], axis=1),
    "[1, n]": lambda s: s[None],
    "[2, n]": lambda s: np.stack([s, s]),
    "[2, n] read only": lambda s: np.broadcast_to(s, (2, len(s))),
    "every other": lambda s: np.repeat(s, 2)[::2],
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_heard_right(entry: str, kind: str, tmp_path: Path) -> None:
    if entry == "Mp4Writer" and ("byte" in kind or kind == "memoryview" or "gradient" in kind):
        pytest.skip("the writer takes arrays of samples")
    audio = TYPES[kind](tone(16_000))
    check(*heard(entry, audio, 16_000, tmp_path), 16_000, entry)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["int16", "float32", "tensor"])
def test_every_layout_is_heard_right(entry: str, layout: str, kind: str, tmp_path: Path) -> None:
    audio = TYPES[kind](LAYOUTS[layout](tone(16_000)))
    check(*heard(entry, audio, 16_000, tmp_path), 16_000, entry)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("rate", [16_000, np.int64(22_050), 24_000.0, np.float32(44_100), 48_000])
def test_every_whole_rate_is_taken_and_kept_in_films(entry: str, rate: Any, tmp_path: Path) -> None:
    whole = whole_rate(rate)
    check(*heard(entry, tone(whole), rate, tmp_path), whole, entry)


@pytest.mark.parametrize("entry", ["speak", "save", "write_mp4", "sync_session.speak", "session.speak"])
@pytest.mark.parametrize("n_bytes", [1, 3, 333, 4096])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_chunks_of_any_size_keep_every_sample(entry: str, n_bytes: int, rate: int, tmp_path: Path) -> None:
    if n_bytes < 333 and entry != "speak":
        n_bytes += 200
    data = tone(rate).tobytes()
    chunks = (data[i : i + n_bytes] for i in range(0, len(data), n_bytes))
    check(*heard(entry, chunks, rate, tmp_path), rate, entry)


def wav(samples: np.ndarray, rate: int, *, subtype: str = "PCM_16", size: int | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    content = bytearray(buffer.getvalue())
    if size is not None:
        at = content.index(b"data")
        content[4:8] = content[at + 4 : at + 8] = struct.pack("<I", size)
    return bytes(content)


def files(rate: int, folder: Path) -> dict[str, Any]:
    content = wav(tone(rate), rate)
    path = folder / "tone.wav"
    path.write_bytes(content)
    return {
        "path": path,
        "str": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "BytesIO": io.BytesIO(content),
        "open file": path.open("rb"),
        "unbuffered file": path.open("rb", buffering=0),
        "pipe": _pipe(content),
        "size 0": wav(tone(rate), rate, size=0),
        "size 2^32-1": wav(tone(rate), rate, size=2**32 - 1),
        "size 0 in a pipe": _pipe(wav(tone(rate), rate, size=0)),
        "chunks": (content[i : i + 1001] for i in range(0, len(content), 1001)),
        "chunks of size 0": (wav(tone(rate), rate, size=0)[i : i + 77] for i in range(0, len(content), 77)),
        "chunks that are wavs": (wav(part, rate) for part in np.array_split(tone(rate), 5)),
    }


def _pipe(content: bytes) -> Any:
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(content)

    threading.Thread(target=feed, daemon=True).start()
    return os.fdopen(read, "rb")


@pytest.mark.parametrize("entry", ["speak", "save", "write_mp4", "session.speak", "sync_session.speak"])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_every_way_to_give_a_file(entry: str, rate: int, tmp_path: Path) -> None:
    for given_rate in (None, rate):
        for kind, audio in files(rate, tmp_path).items():
            try:
                check(*heard(entry, audio, given_rate, tmp_path), rate, entry)
            except Exception as error:
                raise AssertionError(f"{kind} with sample_rate {given_rate}: {error}") from error
            if hasattr(audio, "close"):
                audio.close()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wavs_in_chunks_of_every_coding(subtype: str, channels: int) -> None:
    samples = np.stack([tone(16_000) / 32_768] * channels, axis=1)
    content = wav(samples, 16_000, subtype=subtype)
    pieces = list(open_sound(content[i : i + 5] for i in range(0, len(content), 5)))
    np.testing.assert_allclose(np.concatenate(pieces), tone(16_000) / 32_768, atol=0.01)


@pytest.mark.parametrize("form", ["MP3", "OGG", "FLAC"])
def test_compressed_chunks_as_speech_services_send_them(form: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(24_000, 2.0), 24_000, format=form)
    content = buffer.getvalue()
    for rate in (None, 24_000):
        sound = open_sound((content[i : i + 700] for i in range(0, len(content), 700)), rate)
        samples = np.concatenate(list(sound))
        assert sound.rate == 24_000
        assert len(samples) == pytest.approx(48_000, abs=2_500)
        assert np.abs(samples).max() == pytest.approx(9_000 / 32_768, rel=0.2)
    with AVATAR.sync_session() as session, pytest.raises(MediaError, match="decode them"):
        session.push_audio(content, 24_000)


def test_an_asynchronous_speech_service_is_spoken() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        data = tone(24_000).tobytes()
        for at in range(0, len(data), 777):
            await asyncio.sleep(0)
            yield data[at : at + 777]

    async def wavs() -> AsyncIterator[bytes]:
        data = wav(tone(24_000), 24_000, size=0)
        for at in range(0, len(data), 777):
            yield data[at : at + 777]

    for audio, rate in ((chunks(), 24_000), (wavs(), None)):
        got = np.concatenate([frame.audio for frame in asyncio.run(_spoken(audio, rate))])
        check(got, 16_000, 24_000, "speak")
    with pytest.raises(TypeError, match=r"session\.speak"):
        AVATAR.speak(chunks(), 24_000)  # type: ignore[arg-type]


def test_a_service_that_fails_reaches_who_takes_the_frames() -> None:
    async def chunks() -> AsyncIterator[np.ndarray]:
        yield tone(16_000)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(_spoken(chunks(), 16_000))
    with pytest.raises(ValueError, match="sample_rate"):
        asyncio.run(_spoken(chunks(), None))


def test_an_interruption_ends_speak_and_the_next_one_is_heard() -> None:
    n_given = 0

    async def endless() -> AsyncIterator[np.ndarray]:
        nonlocal n_given
        while True:
            await asyncio.sleep(0.001)
            n_given += 1
            yield tone(16_000)

    async def talk() -> tuple[int, int]:
        async with AVATAR.session(pace="fast", idle=False) as session:
            n = 0
            async for _ in session.speak(endless(), 16_000):
                n += 1
                if n == 30:
                    session.interrupt()
            again = [frame async for frame in session.speak(tone(16_000), 16_000)]
            return n, len(again)

    n, again = asyncio.run(asyncio.wait_for(talk(), 60.0))
    assert 30 <= n <= 31
    assert again == 5
    assert n_given < 40


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no rate": (tone(16_000), None, ValueError, "sample_rate"),
    "list, no rate": (tone(16_000).tolist(), None, ValueError, "sample_rate"),
    "raw bytes, no rate": (tone(16_000).tobytes(), None, MediaError, "sample_rate"),
    "rate of text": (tone(16_000), "16000", TypeError, "16000"),
    "rate with a fraction": (tone(16_000), 16_000.5, ValueError, "whole"),
    "rate that is none": (tone(16_000), True, TypeError, "True"),
    "NaN rate": (tone(16_000), float("nan"), ValueError, "whole"),
    "rate in kHz": (tone(16_000), 16, MediaError, "1000"),
    "another rate than the file's": (wav(tone(16_000), 16_000), 44_100, ValueError, "16000 Hz"),
    "another rate than the chunks'": ([wav(tone(16_000), 16_000)], 44_100, ValueError, "16000 Hz"),
    "floats of int16 size": (tone(16_000).astype(float), 16_000, MediaError, "32768"),
    "chunks of int16 size": ([tone(16_000).astype(float)], 16_000, MediaError, "32768"),
    "NaN": (np.full(900, np.nan), 16_000, MediaError, "NaN"),
    "NaN at the end": (np.r_[np.zeros(90_000), np.inf], 16_000, MediaError, "infinity"),
    "many channels": (np.zeros((300, 400)), 16_000, MediaError, "channels"),
    "no order": (np.zeros((3, 4)), 16_000, MediaError, "other way round"),
    "changed order": ([np.zeros((90, 2)), np.zeros((2, 90))], 16_000, MediaError, "other axis"),
    "three axes": (np.zeros((2, 3, 90)), 16_000, MediaError, "shape"),
    "complex": (np.zeros(900, complex), 16_000, MediaError, "dtype"),
    "booleans": ([np.zeros(900, bool)], 16_000, MediaError, "dtype"),
    "unsigned": (np.zeros(900, np.uint16), 16_000, MediaError, "dtype"),
    "large integers": ([70_000] * 900, 16_000, MediaError, "64 bits"),
    "text": (io.StringIO("abc"), 16_000, TypeError, "rb"),
    "a number": (3.5, 16_000, TypeError, "no sound"),
    "nothing": (None, 16_000, TypeError, "no sound"),
    "a mapping": ({"a": 1}, 16_000, TypeError, "no sound"),
    "chunks of text": (["abc"], 16_000, TypeError, "bytes"),
    "single numbers": ((x for x in (0.5, 0.5)), 16_000, TypeError, "bytes"),
    "a folder": (Path("/"), None, MediaError, "no such file"),
    "an empty file": (b"", None, MediaError, "0 bytes of media"),
    "a wav of another coding": (
        [wav(tone(16_000), 16_000, subtype="ULAW")],
        16_000,
        MediaError,
        "format 7",
    ),
}


@pytest.mark.parametrize("entry", ["speak", "save", "session.speak", "sync_session.speak"])
@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "single numbers"])
def test_what_is_no_sound_is_refused_in_words(entry: str, kind: str, tmp_path: Path) -> None:
    audio, rate, error, words = REFUSED[kind]
    with pytest.raises(error, match=words):
        heard(entry, audio, rate, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_of_an_array_is_checked_before_the_first_frame() -> None:
    with pytest.raises(MediaError, match="infinity"):
        AVATAR.speak(np.r_[np.zeros(900_000), np.inf], 16_000)


@pytest.mark.parametrize("kind", ["offset", "clipped", "quiet offset", "too loud"])
def test_imperfect_sound_moves_the_mouth_as_the_clean_one(kind: str) -> None:
    clean = np.r_[np.zeros(8_000), tone(16_000, 1.0) / 32_768, np.zeros(8_000)]
    change = {
        "offset": lambda s: s + 0.3,
        "quiet offset": lambda s: s - 0.05,
        "clipped": lambda s: np.clip(4 * s, -0.25, 0.25),
        "too loud": lambda s: 6 * s,
    }
    expected, got = list(AVATAR.speak(clean, 16_000)), list(AVATAR.speak(change[kind](clean), 16_000))
    agree = [a.speaking == b.speaking for a, b in zip(expected[3:], got[3:], strict=True)]
    assert np.mean(agree) > 0.9
    assert max(np.abs(frame.audio).max() for frame in got) <= 1.0


def test_what_was_pushed_may_be_overwritten_at_once() -> None:
    with AVATAR.sync_session(pace="fast", idle=False) as session:
        buffer = (tone(16_000) / 32_768).astype(np.float32)
        session.push_audio(buffer, 16_000)
        buffer[:] = 0.9
        session.flush()
        got = np.concatenate([frame.audio for frame in session.run(until="drained")])
    check(got, 16_000, 16_000, "push_audio")


def test_an_interruption_forgets_the_half_sample_before_it() -> None:
    data = tone(16_000).tobytes()
    with AVATAR.sync_session(pace="fast", idle=False) as session:
        session.push_audio(b"\x7f\x7f\x7f", 16_000)
        session.interrupt()
        session.push_audio(data, 16_000)
        session.flush()
        got = np.concatenate([frame.audio for frame in session.run(until="drained")])
    check(got, 16_000, 16_000, "push_audio")


def test_a_wav_ends_where_its_header_says() -> None:
    samples = tone(16_000)
    content = wav(samples, 16_000) + b"LIST" + struct.pack("<I", 400) + b"\x40" * 400
    stream = SampleStream(16_000)
    got = np.concatenate([stream.push(content[i : i + 9]) for i in range(0, len(content), 9)])
    np.testing.assert_array_equal(got, to_mono(samples))


@settings(max_examples=60)
@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 40), max_size=20),
    head=st.sampled_from([b"", b"R", b"RIFF", b"RIFF\0\0\0\0WAV", wav(tone(16_000)[:50], 16_000)]),
)
def test_raw_bytes_do_not_depend_on_their_cuts(data: bytes, cuts: list[int], head: bytes) -> None:
    content = head + data
    ends = np.minimum(np.cumsum([0, *cuts, len(content)]), len(content)).tolist()
    whole, pieces = SampleStream(16_000), SampleStream(16_000)
    try:
        expected = whole.push(content)
    except (MediaError, ValueError) as error:
        with pytest.raises(type(error)):
            for a, b in itertools.pairwise(ends):
                pieces.push(content[a:b])
        return
    got = [pieces.push(content[a:b]) for a, b in itertools.pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(got), expected)


@settings(max_examples=60)
@given(
    n=st.integers(9, 400),
    channels=st.integers(1, 8),
    is_first=st.booleans(),
    kind=st.sampled_from(["int16", "int32", "float32", "float64"]),
    cuts=st.lists(st.integers(1, 30), max_size=20),
)
def test_arrays_do_not_depend_on_their_cuts(
    n: int, channels: int, is_first: bool, kind: str, cuts: list[int]
) -> None:
    samples = np.stack([TYPES[kind](tone(16_000)[k : k + n]) for k in range(channels)], axis=1)
    ends = np.minimum(np.cumsum([9, *cuts, n]), n).tolist()  # the first chunk shows the order
    stream, at, got = SampleStream(16_000), 0, []
    for end in ends:
        chunk = samples[at:end]
        got.append(stream.push(chunk.T if is_first else chunk))
        at = end
    np.testing.assert_array_equal(np.concatenate(got), to_mono(samples))


def test_an_hour_is_streamed_from_disk(tmp_path: Path) -> None:
    """A path, an open file and raw bytes on disk: neither opening nor reading holds the sound."""
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(16_000 * 60, np.int16))
    raw = tmp_path / "hour.pcm"
    raw.write_bytes(path.read_bytes()[44:])

    def chunks() -> Iterator[bytes]:
        with raw.open("rb") as file:
            yield from iter(lambda: file.read(9_999), b"")

    for audio, rate in ((path, None), (path.open("rb"), None), (raw, 16_000), (chunks(), 16_000)):
        tracemalloc.start()
        try:
            n = sum(len(piece) for piece in open_sound(audio, rate))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert n == 3600 * 16_000
        assert peak < 4e6
        if hasattr(audio, "close") and not isinstance(audio, Path):
            audio.close()
