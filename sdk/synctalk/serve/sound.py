"""Sound that strangers send, and speech that a program makes of text: both read with limits."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import MediaError

__all__ = ["Speech", "decode"]

_BLOCK = 1 << 16
_MAX_CHANNELS = 8
_RATES = (8_000, 192_000)
_MAX_WAV = 64 << 20


def decode(data: bytes, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Samples float32 [n] mono and their rate, of a wav, flac, ogg or mp3; in other formats nothing is looked for.

    FFmpeg would know more formats, some of which name further files and addresses to open.
    Raises: MediaError: no such format, damaged, or longer than ``max_s``.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            if not (_RATES[0] <= rate <= _RATES[1] and 1 <= channels <= _MAX_CHANNELS):
                raise MediaError(f"{rate} Hz with {channels} channels: give 8 to 192 kHz, mono or stereo")
            pieces: list[NDArray[Any]] = []
            left = round(max_s * rate)
            while len(block := file.read(min(_BLOCK, left + 1), dtype="float32", always_2d=True)):
                left -= len(block)
                if left < 0:
                    raise MediaError(f"the sound is longer than {max_s:g} s, the most there may be: cut it")
                pieces.append(block.mean(axis=1))
    except (soundfile.LibsndfileError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise MediaError("this is no sound that can be read here: give a wav, flac, ogg or mp3") from error
    if not pieces:
        raise MediaError("there is no sound in it: give one that lasts")
    return np.nan_to_num(np.concatenate(pieces), nan=0.0, posinf=1.0, neginf=-1.0), rate


class Speech:
    """A text-to-speech program: text on its standard input, a wav on its standard output. No shell is in between."""

    def __init__(self, command: tuple[str, ...], timeout_s: float, max_s: float, n_at_once: int = 2) -> None:
        self._command, self._timeout_s, self._max_s = command, timeout_s, max_s
        self._turn = asyncio.Semaphore(n_at_once)

    async def __call__(self, text: str) -> tuple[NDArray[np.float32], int]:
        """Samples and their rate. Raises: MediaError: it failed, took too long, or what it said is no sound."""
        async with self._turn:
            wav = await self._run(text)
        return await asyncio.to_thread(decode, wav, self._max_s)

    async def _run(self, text: str) -> bytes:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(text.encode())
                process.stdin.close()
                wav = await _all(process.stdout)
                await process.wait()
        except (TimeoutError, OSError) as error:
            raise MediaError("the speech program took too long or broke off: try a shorter text") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise MediaError("the speech program failed: try another text")
        return wav


async def _all(stream: asyncio.StreamReader) -> bytes:
    """Raises: MediaError: more than a wav should have."""
    pieces, size = [], 0
    while piece := await stream.read(_BLOCK):
        size += len(piece)
        if size > _MAX_WAV:
            raise MediaError("the speech program does not stop speaking")
        pieces.append(piece)
    return b"".join(pieces)
