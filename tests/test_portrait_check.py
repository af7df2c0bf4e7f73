"""The chin figures tell a jaw in the wrong place, an old chin that shows, and a hole; a right picture passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from synctalk.geometry import Camera, project
from synctalk_trainer.chins import SPOILED, Chin, Chins
from synctalk_trainer.jaw import FilmedJaw, JawShapes, jaw_line
from synctalk_trainer.prepare.face_mesh import JAW
from synctalk_trainer.run import Run

Float = NDArray[np.float32]

SIZE, N_FRAMES = 256, 66
CAMERA = Camera(SIZE, SIZE, 600.0, SIZE / 2, SIZE / 2)
FACING, DISTANCE_M = np.diag([1.0, -1.0, -1.0]).astype(np.float32), 0.6
CHIN_Y, FACE, DROP_PX = 150, (60, 70), 10
SKIN, NECK, WALL = (205, 150, 120), (190, 140, 112), (60, 110, 170)


def _chin(drop: float) -> tuple[float, float]:
    """Half axes of the lower face when the chin has dropped by a share."""
    return FACE[0], FACE[1] + drop * DROP_PX


def _jaw(drop: float) -> Float:
    """The landmarks JAW of a head that looks straight ahead, [P, 2] pixels."""
    across, down = _chin(drop)
    angle = np.linspace(np.pi, 0, len(JAW))
    return np.stack(
        [SIZE / 2 + across * np.cos(angle), CHIN_Y - FACE[1] + down * np.sin(angle)], axis=1
    ).astype(np.float32)


class DrawnRun:
    """A head of ellipses that opens its mouth: what it renders is what was filmed."""

    def __init__(self) -> None:
        generator = np.random.default_rng(3)
        self.mouths = (0.5 - 0.5 * np.cos(np.arange(N_FRAMES) / 3))[:, None].astype(np.float32)
        self.condition_rest = np.zeros(1, np.float32)
        self.shift = generator.integers(-3, 4, (N_FRAMES, 2))
        translation = np.concatenate(
            [self.shift * DISTANCE_M / CAMERA.focal_px, np.full((N_FRAMES, 1), DISTANCE_M)], axis=1
        )
        mesh = np.zeros((478, 3), np.float32)
        mesh[list(JAW), :2] = (_jaw(0) - SIZE / 2) * [1, -1] * DISTANCE_M / CAMERA.focal_px
        points = np.zeros((N_FRAMES, 478, 2), np.float32)
        points[:, list(JAW)] = np.stack([_jaw(float(drop)) for drop in self.mouths[:, 0]])
        plate = np.full((SIZE, SIZE, 3), WALL, np.uint8)
        plate[:, SIZE // 2 - 45 : SIZE // 2 + 45] = NECK
        plates = np.repeat(plate[None], N_FRAMES, axis=0)
        grain = generator.normal(0, 1.5, plates.shape)
        frames = np.stack([self._over(plate, i) for i in range(N_FRAMES)]) + grain
        self.dataset = SimpleNamespace(
            camera=CAMERA,
            rotation=np.repeat(FACING[None], N_FRAMES, axis=0),
            translation=translation.astype(np.float32),
            points_m=mesh,
            landmarks=points + self.shift[:, None],
            plates=plates,
            background=np.full((SIZE, SIZE, 3), WALL, np.uint8),
            frames=frames.clip(0, 255).astype(np.uint8),
            masks=np.stack([2 * (self.render(i)[..., 0] > 0).astype(np.uint8) for i in range(N_FRAMES)]),
        )

    def _over(self, plate: NDArray[np.uint8], frame: int) -> Float:
        rgba = self.render(frame)
        return np.asarray(255 * rgba[..., :3] + (1 - rgba[..., 3:]) * plate, np.float32)

    def render(self, frame: int, condition: Float | None = None) -> Float:
        """The head, and its shadow on the neck: black, and translucent."""
        drop = float((self.mouths[frame] if condition is None else condition)[0])
        v, u = np.mgrid[:SIZE, :SIZE] - self.shift[frame][::-1, None, None]
        across, down = _chin(drop)
        far = np.hypot((u - SIZE / 2) / across, np.maximum(v - CHIN_Y + FACE[1], 0) / down) - 1
        face = np.clip(0.5 - far * down, 0, 1)
        shadow = 0.35 * np.clip(1 - far * down / 24, 0, 1) * (v > CHIN_Y - FACE[1])
        rgba = np.zeros((SIZE, SIZE, 4), np.float32)
        rgba[..., :3] = face[..., None] * np.array(SKIN) / 255
        rgba[..., 3] = face + (1 - face) * shadow
        return rgba


@pytest.fixture(scope="module")
def chins() -> Chins:
    frames = np.random.default_rng(0).permutation(N_FRAMES)
    return Chins.of(cast(Run, DrawnRun()), frames[:50], frames[50:])


def _spoiled(chins: Chins, name: str) -> tuple[Chin, Chin]:
    return chins.check(chins.shut(), SPOILED[name]), chins.check(chins.opened(), SPOILED[name])


def test_right_pictures_pass(chins: Chins) -> None:
    for chin in _spoiled(chins, "no"):
        assert chin.contour < 1.0
        assert chin.second < 0.15
        assert chin.is_good


def test_a_head_that_is_4_px_too_high_fails_the_contour(chins: Chins) -> None:
    for chin in _spoiled(chins, "up"):
        assert chin.contour > 2.0
        assert not chin.is_good


@pytest.mark.parametrize("name", ["old-chin", "hole"])
def test_what_shows_below_a_higher_jaw_fails_the_second_contour(chins: Chins, name: str) -> None:
    shut = _spoiled(chins, name)[0]
    assert shut.second > 0.4
    assert not shut.is_good


def test_the_sheet_has_a_row_for_every_frame(chins: Chins) -> None:
    drives = chins.shut()
    rows = chins.check(drives, SPOILED["no"]).pictures
    assert len(rows) == len(drives)
    assert len({row.shape for row in rows}) == 1


def test_frames_are_driven_the_other_way(chins: Chins) -> None:
    run = cast(Any, chins.run)
    for drive in chins.shut():
        assert run.mouths[drive.frame, 0] > 0.5 > drive.condition[0]
    for drive in chins.opened():
        assert run.mouths[drive.frame, 0] < 0.5 < drive.condition[0]


def test_jaws_follow_condition_and_pose(chins: Chins) -> None:
    data = chins.run.dataset
    for frame in (51, 60):
        jaw = chins.jaws.expected(chins.conditions[frame], data.rotation[frame], data.translation[frame])
        np.testing.assert_allclose(jaw, JawShapes.points_of(data.landmarks[frame]), atol=0.3)


def test_the_jaw_moves_with_a_turned_head(chins: Chins) -> None:
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    away = np.array([0, 0, DISTANCE_M], np.float32)
    straight = chins.jaws.expected(np.ones(1, np.float32), FACING, away) - SIZE / 2
    turned = chins.jaws.expected(np.ones(1, np.float32), (turn @ FACING).astype(np.float32), away) - SIZE / 2
    np.testing.assert_allclose(turned, straight @ turn[:2, :2].T, atol=0.1)
    centre = project(CAMERA, FACING, away, np.zeros((1, 3), np.float32))
    np.testing.assert_allclose(centre, SIZE / 2)


def test_normals_point_away_from_the_face() -> None:
    line, normal = jaw_line(_jaw(0)[3:-3], SIZE)
    outwards = line - [SIZE / 2, CHIN_Y - FACE[1]]
    assert ((normal * outwards).sum(axis=1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)


def test_a_faint_edge_below_the_jaw_is_weaker_than_a_strong_one() -> None:
    run = cast(Any, DrawnRun())
    data = run.dataset
    jaws = [JawShapes.points_of(points) for points in data.landmarks]
    shut = np.flatnonzero(run.mouths[:, 0] < 0.1)
    filmed = FilmedJaw.learn([data.frames[i] for i in shut], [jaws[i] for i in shut])
    strengths = []
    for levels in (0, 8, 40):
        picture = data.frames[shut[0]].astype(np.float32)
        line, normal = jaw_line(jaws[shut[0]], SIZE)
        rim = (line + 10 * normal)[:, None].round().astype(np.int32)
        ghost = np.zeros((SIZE, SIZE), np.float32)
        cv2.fillPoly(ghost, [rim], 1)
        everywhere = np.ones((SIZE, SIZE), bool)
        shown = (picture - levels * ghost[..., None]).clip(0, 255).astype(np.uint8)
        strengths.append(filmed.look(shown, jaws[shut[0]], everywhere).strength)
    assert strengths == sorted(strengths)
    assert strengths[2] > strengths[0] + 0.5
