"""A window on the desktop in which an avatar lives and speaks a sound. Needs: pip install "synctalk[examples]"

python examples/window.py [may.avatar [hello.wav]]
"""

from __future__ import annotations

import sys

import pygame
from synctalk import Avatar
from synctalk.avatar import DEMO
from synctalk.media import read_audio


def main(bundle: str, sound: str) -> None:
    avatar = Avatar.from_bundle(bundle)
    pygame.init()
    window = pygame.display.set_mode(avatar.size)
    with avatar.sync_session() as session:
        session.push_audio(*read_audio(sound))
        session.flush()
        for frame in session.run():  # in real time, also when all is said: it blinks and breathes
            if frame.sound_pts_samples == 0:
                pygame.mixer.Sound(sound).play()
            window.blit(pygame.image.frombuffer(frame.image, avatar.size, "RGB"), (0, 0))
            pygame.display.flip()
            if pygame.event.get(pygame.QUIT):
                return


if __name__ == "__main__":
    defaults = [str(DEMO / "demo.avatar"), str(DEMO / "sentence.wav")]
    main(*sys.argv[1:3], *defaults[len(sys.argv[1:3]) :])
