"""How exact the head poses of `synctalk prepare` are, against the truth of computer-generated clips.

    synctalk synthesize -o clips/a --head ict_facekit_light.npz --seed 21 --seconds 20 --turn 2.2 --grain 2
    python scripts/pose_check.py clips/a clips/b [--json] [--plot docs/pictures/stabilizer.png]

Each folder holds video.mp4 and truth.npz; the data set is made beside them, in `dataset/`, as far as it is missing.
Errors are taken after one alignment of the whole track (axes, origin and scale of head space): root mean square of the
rotation in degrees and of the translation in percent of the distance; jitter is that of the second difference of the
rotation error; lag is the shift in time that explains the error best. `pnp` solves every frame by itself, from the
same landmarks as `landmarks` and with the same mesh and focal length.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from synctalk_trainer.prepare import prepare
from synctalk_trainer.prepare.face_mesh import STABLE

Double = NDArray[np.float64]
Track = tuple[Double, Double]
"""Rotations [N, 3, 3] and translations [N, 3], head to camera."""


def aligned(track: Track, truth: Track) -> Track:
    """The track with head axes, origin and scale chosen so that it fits the truth best."""
    u, _, vt = np.linalg.svd(np.einsum("nji,njk->ik", truth[0], track[0]))
    rotation = track[0] @ (u @ vt).T
    columns = np.concatenate([track[1][:, :, None], rotation], axis=2).reshape(-1, 4)
    found = np.linalg.lstsq(columns, truth[1].ravel(), rcond=None)[0]
    return rotation, (columns @ found).reshape(-1, 3)


def rms(values: Double) -> float:
    return float(np.sqrt((values**2).sum(axis=1).mean()))


def errors(track: Track, truth: Track) -> dict[str, float]:
    rotation, translation = aligned(track, truth)
    turn = Rotation.from_matrix(rotation @ truth[0].transpose(0, 2, 1)).as_rotvec(degrees=True)
    move = 100 * (translation - truth[1]) / np.linalg.norm(truth[1], axis=1).mean()
    speed = Rotation.from_matrix(truth[0][2:] @ truth[0][:-2].transpose(0, 2, 1)).as_rotvec(degrees=True) / 2
    return {
        "rotation_deg": rms(turn),
        "translation_percent": rms(move),
        "jitter_deg": rms(np.diff(turn, 2, axis=0)),
        "lag_ms": -40 * float((turn[1:-1] * speed).sum() / (speed**2).sum()),
    }


def solved_by_frame(folder: Path) -> Track:
    """PnP of every frame by itself."""
    with np.load(folder / "landmarks.npz") as faces, np.load(folder / "landmark_pose.npz") as fit:
        mesh = fit["points_m"][list(STABLE)].astype(np.float64)
        focal, centre = float(fit["focal_px"]), fit["centre"]
        camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
        start, points = fit["rotation"].astype(np.float64), faces["points"][:, list(STABLE), :2]
        moved = fit["translation"].astype(np.float64)
    rotation, translation = np.empty_like(start), np.empty_like(moved)
    for i, seen in enumerate(np.ascontiguousarray(points, np.float64)):
        guess = Rotation.from_matrix(start[i]).as_rotvec()
        _, turn, move = cv2.solvePnP(
            mesh, seen, camera, None, guess, moved[i].copy(), True, cv2.SOLVEPNP_ITERATIVE
        )
        rotation[i], translation[i] = (
            Rotation.from_rotvec(turn[:, 0] if turn.ndim > 1 else turn).as_matrix(),
            move.ravel(),
        )
    return rotation, translation


def read_track(path: Path) -> Track:
    with np.load(path) as file:
        return file["rotation"].astype(np.float64), file["translation"].astype(np.float64)


def check(clip: Path) -> tuple[dict[str, Any], dict[str, Track]]:
    folder = clip / "dataset"
    prepare(clip / "video.mp4", folder, steps=("pose",))
    info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    tracks = {"pnp": solved_by_frame(folder), "landmarks": read_track(folder / "landmark_pose.npz")}
    tracks["stabilised"] = read_track(folder / "pose.npz")
    truth = read_track(clip / "truth.npz")
    with np.load(clip / "truth.npz") as file:
        true_focal = float(file["focal_px"]) * info["size"] / info["crop"]["side"]
    n = min(len(truth[0]), info["n_frames"])
    cut = {name: (track[0][:n], track[1][:n]) for name, track in tracks.items()}
    cut["truth"] = (truth[0][:n], truth[1][:n])
    result = {name: errors(cut[name], cut["truth"]) for name in tracks}
    seconds = sum(info["steps"][name]["seconds"] for name in ("landmark_pose", "tracks", "pose"))
    pose = info["pose"]
    summary = {
        "clip": clip.name,
        "frames": n,
        "focal_error_percent": 100 * (pose["focal_px"] / true_focal - 1),
        "focal_is_weak": pose["focal_is_weak"],
        "turns_deg": pose["turns_deg"],
        "reprojection_px": pose["reprojection_px"],
        "seconds": seconds,
        **result,
    }
    return summary, cut


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| clip | turns ° | poses | rotation ° | translation % | jitter ° | of PnP | lag ms | focal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        for name in ("pnp", "landmarks", "stabilised"):
            part = row[name]
            share = part["jitter_deg"] / row["pnp"]["jitter_deg"]
            focal = f"{row['focal_error_percent']:+.0f} %{', weak' if row['focal_is_weak'] else ''}"
            lines.append(
                f"| {row['clip']} | {max(row['turns_deg']):.0f} | {name} | {part['rotation_deg']:.2f} | "
                f"{part['translation_percent']:.2f} | {part['jitter_deg']:.3f} | {share:.2f} | "
                f"{part['lag_ms']:+.1f} | {focal if name == 'stabilised' else ''} |"
            )
    return "\n".join(lines)


def plot(tracks: dict[str, Track], path: Path) -> None:
    """Six seconds of yaw and pitch: truth, PnP, stabilised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    chosen = slice(0, 150)
    for name, colour, width in (
        ("pnp", "#c78a1d", 0.8),
        ("truth", "#1c2330", 2.2),
        ("stabilised", "#c8442f", 1.0),
    ):
        rotation = aligned(tracks[name], tracks["truth"])[0][chosen] * np.array([1, -1, -1])[:, None]
        angles = Rotation.from_matrix(rotation).as_euler("YXZ", degrees=True)
        time = np.arange(len(angles)) / 25
        upper.plot(time, angles[:, 0], color=colour, linewidth=width, label=name)
        lower.plot(time, angles[:, 1], color=colour, linewidth=width)
    upper.set_ylabel("yaw, degrees")
    lower.set_ylabel("pitch, degrees")
    lower.set_xlabel("seconds")
    upper.legend(frameon=False, ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP_FOLDER")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=Path, help="write a picture of the first clip's yaw and pitch")
    arguments = parser.parse_args()
    checked = [check(clip) for clip in arguments.clips]
    results = [summary for summary, _ in checked]
    if arguments.plot:
        plot(checked[0][1], arguments.plot)
    print(json.dumps(results, indent=1) if arguments.json else table(results))


if __name__ == "__main__":
    main()
