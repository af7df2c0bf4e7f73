"""Sound that strangers send, and speech that a program makes of text: both read with limits."""

from __future__ import annotations

import asyncio
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import MediaError
from synctalk.sound_file import AudioFile

__all__ = ["Speech", "decode"]

_BLOCK = 1 << 16
_RATES = (8_000, 192_000)
_MAX_WAV = 64 << 20


def decode(data: bytes, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Samples float32 [n] mono and their rate, of a wav, flac, ogg, mp3, m4a (mp4) or WebM; other formats are not tried.

    FFmpeg would know more, some of which name further files and addresses to open.
    Raises: MediaError: no such format, damaged, or longer than ``max_s``.
    """
    try:
        file = AudioFile(data, is_trusted=False)
    except MediaError as error:
        raise MediaError(
            "this is no sound that can be read here: give a wav, flac, ogg, mp3, m4a or webm"
        ) from error
    with closing(file):
        if not _RATES[0] <= file.rate <= _RATES[1]:
            raise MediaError(f"the sound is at {file.rate} Hz: give 8 to 192 kHz")
        pieces, left = [], round(max_s * file.rate)
        for piece in file:
            left -= len(piece)
            if left < 0:
                raise MediaError(f"the sound is longer than {max_s:g} s, the most there may be: cut it")
            pieces.append(piece)
    return np.concatenate(pieces), file.rate


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
