"""Bundle adjustment recovers poses from noisy tracks with outliers, without lag, and says when the focal length is weak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_faces import mesh_m
from scipy.spatial.transform import Rotation
from synctalk_trainer.prepare.bundle_adjust import (
    MotionPrior,
    Sightings,
    Structure,
    adjust_poses,
    derivatives,
    predict,
)
from synctalk_trainer.prepare.pose import Fit
from synctalk_trainer.prepare.pose_step import diagnose, focal_words, turning_range, warn_of_poses
from synctalk_trainer.prepare.stabilise import Clip, Stabilised, stabilise
from synctalk_trainer.prepare.surface import surface_of
from synctalk_trainer.prepare.tracks import choose_key_frames, follow, look_at, view_weights
from synctalk_trainer.prepare.workspace import Options, Workspace

SIZE, FOCAL, N = 256, 2.2 * 256, 150
FLIP = np.diag([1.0, -1.0, -1.0])


def motion(turn: float) -> tuple[np.ndarray, np.ndarray]:
    time = np.arange(N) / 25
    angles = turn * np.stack(
        [0.12 * np.sin(time * 2.1), 0.25 * np.sin(time * 1.7 + 1), 0.05 * np.sin(time)], axis=1
    )
    rotation = FLIP @ Rotation.from_rotvec(angles).as_matrix()
    place = np.stack([0.02 * np.sin(time), 0.01 * np.cos(time), 0.9 + 0.03 * np.sin(0.7 * time)], axis=1)
    return rotation, place


def clip_of(
    turn: float = 1.0, noise: float = 0.1, lost: slice = slice(0, 0), guess: float = 1.1 * FOCAL
) -> Clip:
    """Tracks with noise and outliers, and landmark poses that are wrong by about a degree in every frame."""
    rng = np.random.default_rng(5)
    rotation, translation = motion(turn)
    points = rng.uniform((-0.07, -0.02, 0.0), (0.07, 0.1, 0.07), (70, 3))
    poses = np.concatenate([Rotation.from_matrix(rotation).as_rotvec(), translation], axis=1)
    truth = Structure(np.eye(3), poses, points, FOCAL)
    valid = np.ones(N, bool)
    valid[lost] = False
    frame, point = np.nonzero((rng.random((N, 70)) < 0.7) & valid[:, None])
    seen = Sightings(frame, point, np.zeros((len(frame), 2)), np.ones(len(frame)))
    xy = predict(truth, seen) + rng.normal(0, noise, (len(frame), 2))
    wrong = rng.random(len(frame)) < 0.05
    xy[wrong] += rng.normal(0, 6, (int(wrong.sum()), 2))
    mesh = mesh_m()
    camera = mesh @ rotation.transpose(0, 2, 1) + translation[:, None]
    landmarks = FOCAL * camera[..., :2] / camera[..., 2:] + rng.normal(0, 0.5, (N, 478, 2))
    shaken = Rotation.from_rotvec(rng.normal(0, np.radians(1.0), (N, 3))).as_matrix() @ rotation
    fit = Fit(shaken, translation * (1, 1, guess / FOCAL), mesh, guess, ())
    start = points + rng.normal(0, 0.004, points.shape)
    tracks = replace(seen, xy=xy)
    return Clip(fit, landmarks, valid, [(0, N)], SIZE, tracks, start, np.array([10, 60]))


def turn_error(done: Stabilised, rotation: np.ndarray) -> np.ndarray:
    """Rotation errors [N, 3] in degrees after one alignment of the head's axes."""
    u, _, vt = np.linalg.svd(np.einsum("nji,njk->ik", rotation, done.fit.rotation))
    aligned = done.fit.rotation @ (u @ vt).T
    return Rotation.from_matrix(aligned @ rotation.transpose(0, 2, 1)).as_rotvec(degrees=True)


def test_poses_are_recovered_from_noise_and_outliers() -> None:
    rotation, _ = motion(1.0)
    done = stabilise(clip_of())
    error = turn_error(done, rotation)
    assert np.sqrt((error**2).sum(axis=1).mean()) < 0.15
    assert abs(np.log(done.fit.focal_px / FOCAL)) < 0.1
    assert abs(np.linalg.norm(done.fit.points_m[33] - done.fit.points_m[263]) - 0.0889) < 1e-6


def test_stabilised_track_does_not_lag() -> None:
    rotation, _ = motion(1.0)
    error = turn_error(stabilise(clip_of(noise=0.3)), rotation)[1:-1]
    speed = Rotation.from_matrix(rotation[2:] @ rotation[:-2].transpose(0, 2, 1)).as_rotvec(degrees=True) / 2
    lag_frames = -(error * speed).sum() / (speed**2).sum()
    assert abs(lag_frames) < 0.05


def test_frames_without_a_face_lie_on_the_way() -> None:
    rotation, _ = motion(1.0)
    error = turn_error(stabilise(clip_of(lost=slice(70, 76))), rotation)
    assert np.linalg.norm(error[70:76], axis=1).max() < 1.0


def test_exact_tracks_tell_the_focal_length_from_far_away() -> None:
    rotation, _ = motion(1.0)
    for guess in (0.7, 1.4):
        done = stabilise(clip_of(noise=0.001, guess=guess * FOCAL))
        assert abs(np.log(done.fit.focal_px / FOCAL)) < 0.01
        assert np.sqrt((turn_error(done, rotation) ** 2).sum(axis=1).mean()) < 0.05


def test_noisy_tracks_leave_the_focal_length_to_the_landmarks() -> None:
    done = stabilise(clip_of(turn=0.15, noise=0.5, guess=0.8 * FOCAL))
    assert done.focal_deviation > 0.15
    assert abs(np.log(done.fit.focal_px / (0.8 * FOCAL))) < 0.15


def test_weak_focal_length_is_marked() -> None:
    still, noisy, turning = clip_of(turn=0.15), clip_of(noise=0.3), clip_of(noise=0.005)
    assert diagnose(stabilise(still), still)["focal_is_weak"]
    assert diagnose(stabilise(noisy), noisy)["focal_is_weak"]
    assert not diagnose(stabilise(turning), turning)["focal_is_weak"]


def test_no_turn_is_missing_where_the_head_turns_enough() -> None:
    still, noisy, turning = clip_of(turn=0.15), clip_of(noise=0.3), clip_of(noise=0.005)
    said = focal_words(diagnose(stabilise(still), still))
    assert said.startswith("weakly determined") and "20° or more would tell" in said
    turned = diagnose(stabilise(noisy), noisy)
    assert max(turned["turns_deg"]) > 24
    assert "20°" not in focal_words(turned) and "not followed exactly enough" in focal_words(turned)
    assert focal_words(diagnose(stabilise(turning), turning)).startswith("determined to ")


def test_warnings_name_the_places_to_look_at(tmp_path: Path) -> None:
    clip = clip_of()
    done = stabilise(clip)
    done.n_tracks[10:15] = 3
    done.track_px[50:60] *= 20
    turned = done.fit.rotation.copy()
    for frame in range(100, 110, 2):
        turned[frame] = Rotation.from_euler("y", 20, degrees=True).as_matrix() @ turned[frame]
    work = Workspace.open(tmp_path, None, Options())
    warn_of_poses(work, replace(done, fit=replace(done.fit, rotation=turned)), clip)
    few, loose, jump = (warning["message"] for warning in work.info["warnings"])
    assert "could be followed at 0.4-0.6 s" in few
    assert "do not move as one head at 2.0-2.4 s" in loose
    assert "jumps at 4.0-4.4 s" in jump


def test_turning_range_is_that_of_the_motion() -> None:
    angles = np.radians(np.linspace(-12, 12, 400))
    rotation = FLIP @ Rotation.from_rotvec(np.stack([0 * angles, angles, 0 * angles], axis=1)).as_matrix()
    sideways, upwards = turning_range(rotation)
    assert abs(sideways - 24 * 0.98) < 0.2
    assert upwards < 0.1


def test_derivatives_match_central_differences() -> None:
    rng = np.random.default_rng(2)
    model = Structure(
        Rotation.from_rotvec([0.2, 0.1, -0.3]).as_matrix(),
        np.concatenate([rng.normal(0, 0.4, (3, 3)), rng.normal((0, 0, 1), 0.02, (3, 3))], axis=1),
        rng.normal(0, 0.05, (4, 3)),
        600.0,
    )
    frame, point = (index.ravel() for index in np.indices((3, 4)))
    seen = Sightings(frame, point, rng.normal(0, 50, (12, 2)), np.ones(12))
    _, by_pose, by_point, by_focal = derivatives(model, seen)
    step = 1e-6
    for i in range(6):
        move = np.zeros(6)
        move[i] = step
        high, low = (predict(replace(model, poses=model.poses + sign * move), seen) for sign in (1, -1))
        np.testing.assert_allclose(by_pose[..., i], (high - low) / (2 * step), atol=1e-3)
    for i in range(3):
        move = np.zeros(3)
        move[i] = step
        high, low = (predict(replace(model, points=model.points + sign * move), seen) for sign in (1, -1))
        np.testing.assert_allclose(by_point[..., i], (high - low) / (2 * step), atol=1e-3)
    high, low = (predict(replace(model, focal=600 * np.exp(sign * step)), seen) for sign in (1, -1))
    np.testing.assert_allclose(by_focal, (high - low) / (2 * step), atol=1e-3)


def test_prior_stays_within_takes() -> None:
    """A jump between two takes is kept, though the prior is strong; within a take it is not."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.06, 0.06, (12, 3))
    poses = np.zeros((40, 6))
    poses[:, 5], poses[20:, 1] = 1.0, 0.2
    truth = Structure(FLIP, poses, points, FOCAL)
    frame, point = (index.ravel() for index in np.indices((40, 12)))
    seen = Sightings(frame, point, np.zeros((480, 2)), np.ones(480))
    seen = replace(seen, xy=predict(truth, seen))
    prior = MotionPrior(np.full(6, 1e8), np.full(6, 10.0))
    start = replace(truth, poses=poses + rng.normal(0, 0.01, poses.shape))
    cut = adjust_poses(start, seen, 1.0, prior, [(0, 20), (20, 40)], np.full((40, 6), 1e-9), 12)
    np.testing.assert_allclose(cut.poses, poses, atol=1e-4)
    whole = adjust_poses(start, seen, 1.0, prior, [(0, 40)], np.full((40, 6), 1e-9), 12)
    assert np.abs(whole.poses[:, 1] - poses[:, 1]).max() > 0.02


def test_features_are_followed_to_a_twentieth_of_a_pixel() -> None:
    import cv2

    rng = np.random.default_rng(1)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (300, 300)).astype(np.float32), (0, 0), 2.0)
    wide = cv2.normalize(wide, None, 30, 220, cv2.NORM_MINMAX)
    mesh = mesh_m()[:, :2] * (1, -1) * 800 + 130
    head = np.ones((256, 256), bool)
    picture = np.repeat(wide[:256, :256, None], 3, axis=2).astype(np.uint8)
    view = look_at(picture, head, mesh)
    assert len(view.points) > 10
    shift = np.array([2.3, -1.4])
    waves = np.fft.fftfreq(300)[None] * shift[0] + np.fft.fftfreq(300)[:, None] * shift[1]
    moved = np.real(np.fft.ifft2(np.fft.fft2(wide) * np.exp(-2j * np.pi * waves)))[:256, :256]
    y, x = np.indices(view.picture.shape, np.float32)
    guess = np.array(view.corner) + shift + (0.6, -0.5)  # the landmark poses are a little wrong
    bend = (x + np.float32(guess[0]), y + np.float32(guess[1]))
    found, xy = follow(view, np.asarray(np.clip(moved, 0, 255), np.uint8), bend)
    assert len(found) > 0.7 * len(view.points)
    away = xy - (view.points[found] + view.corner + 0.5 + shift)
    assert np.median(np.abs(away)) < 0.05


def bulge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of a face with a nose, metres towards the camera."""
    return 0.02 * np.exp(-(x**2 + (y - 0.02) ** 2) / 0.03**2) - 2 * x**2 - 1.5 * (y - 0.03) ** 2


def seen_bulge(texture: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Picture [SIZE, SIZE] of the bulge, painted with a texture over x and y (metres, -0.14..0.14)."""
    import cv2

    y, x = np.indices((SIZE, SIZE)) + 0.5
    ray = np.stack([(x - SIZE / 2) / FOCAL, (y - SIZE / 2) / FOCAL, np.ones_like(x)], axis=-1) @ rotation
    start = -translation @ rotation
    z = np.zeros((SIZE, SIZE))
    for _ in range(60):
        far = (z - start[2]) / ray[..., 2]
        place = start + ray * far[..., None]
        z += 0.5 * (bulge(place[..., 0], place[..., 1]) - z)
    at = (place[..., :2] + 0.14) / 0.28 * len(texture) - 0.5
    return cv2.remap(texture, at[..., 0].astype(np.float32), at[..., 1].astype(np.float32), cv2.INTER_CUBIC)


def test_turned_surface_is_followed_though_the_guessed_turn_is_a_third_short() -> None:
    """Bent by its surface, a match does not lean towards the guess; bent as if flat, many are lost."""
    import cv2

    texture = cv2.GaussianBlur(
        np.random.default_rng(3).uniform(0, 255, (1400, 1400)).astype(np.float32), (0, 0), 7
    )
    texture = cv2.normalize(texture, None, 20, 230, cv2.NORM_MINMAX)
    front, place = FLIP, np.array([0.0, 0.03, 0.62])
    turned = FLIP @ Rotation.from_rotvec(np.radians([12.0, -5.0, 0.0])).as_matrix()
    guess = FLIP @ Rotation.from_rotvec(np.radians([8.0, -5.0, 0.0])).as_matrix()
    one, other = (np.clip(seen_bulge(texture, pose, place), 0, 255) for pose in (front, turned))
    mesh = mesh_m()
    camera = mesh @ front.T + place
    outline = FOCAL * camera[:, :2] / camera[:, 2:] + SIZE / 2
    picture = np.repeat(one[..., None], 3, axis=2).astype(np.uint8)
    view = look_at(picture, np.ones((SIZE, SIZE), bool), outline)
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-0.09, 0.09, 30), np.linspace(-0.08, 0.13, 30)))

    def followed(height: np.ndarray) -> tuple[int, float]:
        """How many features were found, and their median error in pixels, bent by a surface of this height."""
        points = np.stack([x, y, height], axis=1)
        area = (view.corner, view.picture.shape, view.face_px)
        surface = surface_of(points, front, place, FOCAL, SIZE, *area)
        found, xy = follow(view, other.astype(np.uint8), surface.bend(guess, place, FOCAL, SIZE))
        exact = surface_of(np.stack([x, y, bulge(x, y)], axis=1), front, place, FOCAL, SIZE, *area)
        true_x, true_y = exact.bend(turned, place, FOCAL, SIZE)
        column, row = np.round(view.points[found]).astype(int).T
        away = xy - 0.5 - np.stack([true_x[row, column], true_y[row, column]], axis=1)
        return len(found), float(np.median(np.abs(away)))

    n_found, error = followed(bulge(x, y))
    assert error < 0.06
    assert n_found > 0.8 * len(view.points)
    assert n_found > 1.3 * followed(np.zeros_like(x))[0]


def test_bent_pixels_lie_where_the_surface_is_seen() -> None:
    """Also between the cells of the surface, and beside the points that it passes through."""
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-0.09, 0.09, 30), np.linspace(-0.08, 0.13, 30)))
    points = np.stack([x, y, bulge(x, y)], axis=1)
    place = np.array([0.0, 0.03, 0.62])
    surface = surface_of(points, FLIP, place, FOCAL, SIZE, (40, 30), (180, 170), 110.0)
    turned = FLIP @ Rotation.from_rotvec(np.radians([9.0, -7.0, 3.0])).as_matrix()
    between = np.stack([x + 0.003, y - 0.002, bulge(x + 0.003, y - 0.002)], axis=1)
    one, other = (
        FOCAL * seen[:, :2] / seen[:, 2:] + SIZE / 2
        for seen in (between @ pose.T + place for pose in (FLIP, turned))
    )
    column, row = np.round(one - (40.5, 30.5)).astype(int).T
    inside = (np.minimum(column, row) > 5) & (column < 165) & (row < 175) & (np.abs(x) < 0.08)
    offset = one - (40.5, 30.5) - np.stack([column, row], axis=1)  # from the pixel's centre
    bent = np.stack(
        [part[row[inside], column[inside]] for part in surface.bend(turned, place, FOCAL, SIZE)], 1
    )
    assert inside.sum() > 300
    assert np.abs(bent + offset[inside] + 0.5 - other[inside]).mean() < 0.1


def test_key_frames_cover_the_views_and_weights_fade() -> None:
    rotation, _ = motion(1.0)
    keys = choose_key_frames(rotation, np.ones(N, bool), np.zeros(N, np.float32))
    weights = view_weights(rotation, keys)
    assert (weights.max(axis=1) > 0.2).all()
    assert np.abs(np.diff(weights, axis=0)).max() < 0.5


def test_pose_step_resumes_and_can_be_left_out(tmp_path: Path) -> None:
    from synctalk_trainer.prepare import Options
    from test_prepare_steps import run, swaying, write_video

    video = write_video(tmp_path / "a.mkv", swaying(130))
    first = run(video, tmp_path / "d", "pose")
    assert {"landmark_pose", "tracks", "pose"} <= set(first.done)
    (tmp_path / "d/pose.npz").unlink()
    assert run(video, tmp_path / "d", "pose").done == ("pose",)
    assert run(video, tmp_path / "d", "pose", options=Options(poses="landmarks")).done == ("pose",)
    with np.load(tmp_path / "d/pose.npz") as pose, np.load(tmp_path / "d/landmark_pose.npz") as fit:
        np.testing.assert_array_equal(pose["rotation"], fit["rotation"])
