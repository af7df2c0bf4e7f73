"""The computer-generated person: truth and picture agree, sound and picture agree, and seeds decide everything."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from synctalk import _native
from synctalk.errors import MediaError, ModelError
from synctalk_trainer.prepare.landmarks import MediaPipeLandmarker
from synctalk_trainer.synthetic import synthesize
from synctalk_trainer.synthetic.motion import move
from synctalk_trainer.synthetic.plain_head import plain_head
from synctalk_trainer.synthetic.rig import load_ict
from synctalk_trainer.synthetic.speech import SAMPLE_RATE, babble, mouth_shapes

SECONDS, SIZE = 2.0, 128
SHARED = Path(os.environ.get("SYNCTALK_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MESH = SHARED / "data" / "head" / "ict_facekit_light.npz"


def _has_espeak() -> bool:
    try:
        ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    except OSError:
        return False
    return True


needs_espeak = pytest.mark.skipif(
    not _has_espeak(), reason="libespeak-ng is not installed (apt install espeak-ng)"
)
needs_mesh = pytest.mark.skipif(not MESH.exists(), reason=f"the ICT-FaceKit mesh is not at {MESH}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    synthesize(folder, SECONDS, SIZE, seed=3, voice="babble")
    return folder


@pytest.fixture(scope="module")
def truth(clip: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(clip / "truth.npz", allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def pictures(clip: Path) -> NDArray[np.uint8]:
    with av.open(str(clip / "video.mp4")) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _projected(truth: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The moving landmarks in the picture: [N, 68, 2]."""
    seen = np.einsum("nij,npj->npi", truth["rotation"], truth["landmarks_m"]) + truth["translation"][:, None]
    return truth["focal_px"] * seen[..., :2] / seen[..., 2:] + truth["centre"]


def test_a_clip_has_a_frame_and_a_truth_for_every_40_ms(
    truth: dict[str, NDArray[np.float32]], pictures: NDArray[np.uint8]
) -> None:
    n = int(SECONDS * 25)
    assert pictures.shape == (n, SIZE, SIZE, 3)
    assert truth["masks"].shape == (n, SIZE, SIZE)
    for name in ("rotation", "translation", "expression", "aperture_m", "landmarks_m"):
        assert len(truth[name]) == n, name


def test_truth_projects_onto_the_head(truth: dict[str, NDArray[np.float32]]) -> None:
    points = _projected(truth)[:, 17:].round().astype(int)  # without the jaw line, which lies on the rim
    frames = np.arange(len(points))[:, None]
    on_head = truth["masks"][frames, points[..., 1], points[..., 0]] == 2
    assert on_head.mean() > 0.99


def test_outer_eye_corners_fix_the_scale(truth: dict[str, NDArray[np.float32]]) -> None:
    rigid = truth["rigid_m"]
    assert np.linalg.norm(rigid[36] - rigid[45]) == pytest.approx(0.0889, abs=1e-5)
    np.testing.assert_allclose((rigid[36] + rigid[45]) / 2, (0, 0.02664, 0.03173), atol=1e-5)
    rotations = truth["rotation"]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (len(rotations), 1, 1)), atol=1e-5
    )
    assert np.linalg.det(rotations) == pytest.approx(np.ones(len(rotations)), abs=1e-5)


def test_the_mouth_in_the_picture_follows_its_truth(
    truth: dict[str, NDArray[np.float32]], pictures: NDArray[np.uint8]
) -> None:
    at = _projected(truth)
    dark = []
    for picture, points in zip(pictures, at, strict=True):
        (left, right), middle = points[[48, 54], 0].round().astype(int), points[[62, 66]].mean(0)
        top, low = int(middle[1] - 0.05 * SIZE), int(middle[1] + 0.09 * SIZE)
        dark.append((picture[top:low, left:right].mean(-1) < 75).sum())
    assert np.corrcoef(dark, truth["aperture_m"])[0, 1] > 0.75


def test_sound_and_picture_are_equally_long(clip: Path) -> None:
    with av.open(str(clip / "video.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.07)  # an AAC block is 64 ms


def test_the_same_seed_gives_the_same_bytes_and_another_another(tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        synthesize(tmp_path / folder, 0.6, 96, seed=seed, voice="babble")
    videos = [(tmp_path / folder / "video.mp4").read_bytes() for folder in "abc"]
    assert videos[0] == videos[1] != videos[2]
    with np.load(tmp_path / "a" / "truth.npz") as a, np.load(tmp_path / "b" / "truth.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)


def test_nothing_is_left_half_written(clip: Path) -> None:
    assert sorted(path.name for path in clip.iterdir()) == ["truth.npz", "video.mp4"]


def test_lips_meet_for_p_and_part_for_a() -> None:
    speech = babble(20.0, np.random.default_rng(1))
    names = plain_head(np.random.default_rng(0)).names
    jaw = mouth_shapes(speech, names, 20 * 25, 25)[:, names.index("jawOpen")]

    def at(sound: str) -> float:
        middles = [round(25 * 0.5 * (p.start + p.end)) for p in speech.phonemes if p.name == sound]
        return float(np.mean(jaw[middles]))

    assert at("p") < 0.25 * at("a")
    assert at("m") < 0.25 * at("a")


def test_the_mouth_closes_in_pauses() -> None:
    speech = babble(20.0, np.random.default_rng(1))
    names = plain_head(np.random.default_rng(0)).names
    jaw = mouth_shapes(speech, names, 20 * 25, 25)[:, names.index("jawOpen")]
    pauses = [
        round(25 * 0.5 * (p.start + p.end))
        for p in speech.phonemes
        if p.name == "_" and p.end - p.start > 0.3
    ]
    assert len(pauses) > 3
    assert np.max(jaw[pauses]) < 0.2 * jaw.mean()


def test_motion_is_natural_in_size_and_speed() -> None:
    names = plain_head(np.random.default_rng(0)).names
    speech = babble(60.0, np.random.default_rng(1))
    motion = move(speech, names, 1500, 25, np.array([0, 0, 1.0]), np.random.default_rng(2))
    turned = np.degrees(
        np.arccos(
            np.clip((np.trace(motion.rotation @ np.diag([1.0, -1, -1]), axis1=1, axis2=2) - 1) / 2, -1, 1)
        )
    )
    step = motion.rotation[1:] @ motion.rotation[:-1].transpose(0, 2, 1)
    speed = 25 * np.degrees(np.arccos(np.clip((np.trace(step, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 2 < np.median(turned) < 12
    assert np.quantile(speed, 0.99) < 60
    blink = motion.expression[:, names.index("eyeBlinkLeft")] > 0.6
    assert 8 < np.count_nonzero(np.diff(blink.astype(int)) == 1) < 40


def test_too_short_or_odd_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="even size"):
        synthesize(tmp_path, 2.0, 127, voice="babble")
    with pytest.raises(MediaError, match=r"0\.5 s"):
        synthesize(tmp_path, 0.1, 128, voice="babble")


def test_a_file_that_is_not_the_mesh_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, vertices=np.zeros((3, 3)))
    with pytest.raises(ModelError, match="ICT-FaceKit"):
        load_ict(wrong, np.random.default_rng(0))


_SAY = """
import numpy as np
import pytest
from synctalk_trainer.synthetic.speech import SAMPLE_RATE, say
speech = say(4.0, np.random.default_rng(0))
assert speech.audio.shape == (4 * SAMPLE_RATE,) and speech.audio.dtype == np.float32
starts, ends = (np.array([getattr(p, edge) for p in speech.phonemes]) for edge in ("start", "end"))
np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-6)
assert (ends >= starts).all() and ends[-1] == pytest.approx(4.0)
spoken = [p for p in speech.phonemes if p.name != "_"]
assert len(spoken) > 20
loud = [
    np.abs(speech.audio[int(p.start * SAMPLE_RATE) : int(p.end * SAMPLE_RATE) + 1]).max() for p in spoken
]
assert np.mean(np.array(loud) > 0.01) > 0.9
"""


@needs_espeak
def test_espeak_gives_phonemes_in_order_without_gaps() -> None:
    # In a process of its own: espeak-ng keeps its state, and names phonemes as whoever began it wished.
    subprocess.run([sys.executable, "-c", _SAY], check=True)


@needs_mesh
def test_the_ict_mesh_becomes_a_head_of_human_size() -> None:
    head = load_ict(MESH, np.random.default_rng(0))
    corners = head.to_metres(head.vertices[head.landmarks[[36, 45]]])
    assert np.linalg.norm(corners[0] - corners[1]) == pytest.approx(0.0889, abs=1e-5)
    assert {"jawOpen", "eyeBlinkLeft", "mouthPucker"} <= set(head.names)
    assert head.lashes.shape[1:] == (4, 3) and np.isfinite(head.lashes).all()


def test_the_face_landmarker_finds_the_plain_head(
    truth: dict[str, NDArray[np.float32]], pictures: NDArray[np.uint8]
) -> None:
    landmarker = MediaPipeLandmarker()
    faces = [landmarker.detect(picture) for picture in pictures[::2]]
    landmarker.close()
    gaps = [np.hypot(*(face.points[13, :2] - face.points[14, :2])) for (face,) in faces]
    assert np.corrcoef(gaps, truth["aperture_m"][::2])[0, 1] > 0.8


def test_the_nearer_triangle_wins_and_attributes_are_perspective_correct() -> None:
    near, far = 1.0, 3.0
    at = np.array([(0, 0, near), (16, 0, far), (0, 16, near), (0, 0, 9), (16, 0, 9), (0, 16, 9)], np.float32)
    triangles = np.array([(3, 4, 5), (0, 1, 2)], np.int32)
    ids, depth = np.empty((16, 16), np.int32), np.empty((16, 16), np.float32)
    _native.rasterize(at, triangles, ids, depth)
    assert ids[0, 0] == 1 and ids[15, 15] == -1 and np.isinf(depth[15, 15])
    attributes = np.array([[0], [1], [0], [5], [5], [5]], np.float32)
    out = np.full((16, 16, 1), -1, np.float32)
    _native.interpolate_attributes(at, triangles, ids, attributes, out)
    share = 8.5 / 16
    assert out[0, 8, 0] == pytest.approx(share / far / (share / far + (1 - share) / near), abs=1e-5)
    assert depth[0, 8] == pytest.approx(1 / (share / far + (1 - share) / near), abs=1e-4)
    assert out[15, 15, 0] == -1
