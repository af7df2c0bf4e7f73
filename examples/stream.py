"""Talk to an avatar as an app does: frames go on all the time, sentences come in pieces, a word cuts them off.

    python examples/stream.py [may.avatar [hello.wav [out.mp4]]]

Without arguments the demo avatar speaks the demo sentence. The mp4 is what a viewer would have seen.
"""

from __future__ import annotations

import asyncio
import sys

from synctalk import Avatar, Session
from synctalk.avatar import DEMO
from synctalk.media import open_mp4, read_audio


async def speak(session: Session, path: str) -> None:
    """What a speech synthesiser would do: deliver a sentence in pieces, faster than it is spoken."""
    samples, rate = read_audio(path)
    for at in range(0, len(samples), rate // 5):
        await session.push_audio(samples[at : at + rate // 5], sample_rate=rate)
        await asyncio.sleep(0.05)
    session.flush()


async def converse(session: Session, path: str) -> None:
    await asyncio.sleep(1.0)  # idle motion
    await speak(session, path)
    await asyncio.sleep(2.0)
    report = session.interrupt()  # the user speaks: stop at once
    print(f"interrupted: {report.played_ms:.0f} ms were heard, {report.dropped_ms:.0f} ms dropped")
    session.control.set(pose=(0, 6, 0), expression={"browInnerUp": 1.0}, lerp_s=0.4)  # listen
    await asyncio.sleep(1.5)
    session.control.set(pose=None, expression=None, lerp_s=0.4)
    await speak(session, path)


async def main(bundle: str, sound: str, out: str) -> None:
    avatar = Avatar.from_bundle(bundle)
    async with avatar.session() as session:
        talk = asyncio.create_task(converse(session, sound))
        with open_mp4(out, avatar.fps, avatar.sample_rate) as video:
            async for frame in session.run():
                video.write(frame.image, frame.audio)
                if talk.done() and frame.end_of_speech:
                    break
        await talk
        print(f"{out}: {frame.index + 1} frames; {session.stats}")


if __name__ == "__main__":
    defaults = [str(DEMO / "demo.avatar"), str(DEMO / "sentence.wav"), "stream.mp4"]
    asyncio.run(main(*sys.argv[1:4], *defaults[len(sys.argv[1:4]) :]))
