"""An avatar as a camera for calls and OBS: other programs see it as a webcam. Needs: pip install "synctalk[examples]"

    python examples/virtual_camera.py [may.avatar [hello.wav]]

The camera is v4l2loopback on Linux (modprobe v4l2loopback), OBS's virtual camera on Windows and macOS. It carries no
sound: play that beside it, as examples/window.py does.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

from synctalk import Avatar
from synctalk.avatar import DEMO
from synctalk.media import read_audio


def stream(avatar: Avatar, sound: str, camera: Any, n_frames: int | None = None) -> None:
    """Show an avatar that speaks a sound and then waits; for ever, or for so many frames."""
    with avatar.sync_session() as session:
        session.push_audio(*read_audio(sound))
        session.flush()
        for frame in islice(session.run(), n_frames):
            camera.send(frame.image)


def main(bundle: str, sound: str) -> None:
    try:
        from pyvirtualcam import Camera
    except ImportError:
        sys.exit("pyvirtualcam is not installed: pip install pyvirtualcam")
    avatar = Avatar.from_bundle(bundle)
    try:
        camera = Camera(*avatar.size, avatar.fps)
    except RuntimeError as error:
        sys.exit(
            f"there is no virtual camera here ({error}): install v4l2loopback (Linux) or OBS, and start it"
        )
    with camera:
        print(f"other programs see the avatar as {camera.device}; Ctrl-C ends it")
        stream(avatar, sound, camera)


if __name__ == "__main__":
    defaults = [str(DEMO / "demo.avatar"), str(DEMO / "sentence.wav")]
    main(*sys.argv[1:3], *defaults[len(sys.argv[1:3]) :])
