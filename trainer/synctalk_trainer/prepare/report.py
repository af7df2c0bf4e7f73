"""Step ``report``: ``report.html``, what a person looks at before hours of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.geometry import Camera, project
from synctalk.media import atomic_path
from synctalk.spec import FPS
from synctalk_trainer.dataset import HEAD, Dataset
from synctalk_trainer.prepare.pose_step import focal_words
from synctalk_trainer.prepare.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["run_report"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

_SHEET_COLUMNS, _SHEET_FRAMES, _TILE = 6, 12, 280
_AXIS_M = 0.08
_RED, _GREEN, _BLUE, _MESH = (230, 60, 50), (60, 200, 90), (70, 120, 255), (250, 240, 120)
_INK, _LINES = "#1c2330", ("#c8442f", "#2f8f5b", "#3c6fd6", "#8a5cc2", "#c78a1d", "#3aa0a8", "#7a7f88")
_FIT_LIMIT = 0.006
"""A mean reprojection error beyond this share of the picture's side is worth a warning."""


def run_report(work: Workspace) -> None:
    """Write ``report.html`` and its pictures."""
    data = Dataset.open(work.folder)
    errors = work.arrays("pose.npz")["reprojection_px"]
    _warn_of_fit(work, errors, data)
    folder = work.folder / "report"
    folder.mkdir(exist_ok=True)
    chosen = _chosen(data)
    _write_sheet(folder / "frames.png", [_with_mesh(data, i) for i in chosen])
    work.advance(0.2)
    _write_sheet(folder / "masks.png", [_with_outlines(data, i) for i in chosen])
    _write_sheet(folder / "plates.png", [data.background, *(np.asarray(data.plates[i]) for i in chosen[1:])])
    work.advance(0.4)
    _write_curves(folder, data, errors)
    work.advance(0.9)
    with atomic_path(work.folder / "report.html") as temporary:
        temporary.write_text(_page(work, data, errors), encoding="utf-8")


def _warn_of_fit(work: Workspace, errors: Float, data: Dataset) -> None:
    mean, limit = float(errors[data.valid].mean()), _FIT_LIMIT * data.camera.width
    if mean > limit:
        work.warn(
            "report",
            "loose_pose",
            f"the head pose fits the face only to {mean:.1f} pixels (expected below {limit:.1f}): the head will shake. "
            "A sharper, better lit video helps.",
        )


def _chosen(data: Dataset) -> list[int]:
    """Frames spread over the clip that have a face."""
    known = np.flatnonzero(data.valid)
    return [int(i) for i in known[np.linspace(0, len(known) - 1, min(_SHEET_FRAMES, len(known))).astype(int)]]


def _with_mesh(data: Dataset, index: int) -> Picture:
    picture = np.array(data.frames[index])
    factor = max(1, round(_TILE / picture.shape[0] + 0.3))
    side = picture.shape[0] * factor
    picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    for x, y in data.landmarks[index, :, :2] * factor:
        cv2.circle(picture, (round(float(x)), round(float(y))), 1, _MESH, -1, cv2.LINE_AA)
    camera: Camera = data.camera.resized(side, side)
    corners = np.concatenate([np.zeros((1, 3)), np.eye(3) * _AXIS_M]).astype(np.float32)
    corners += data.points_m[[168, 6, 197]].mean(axis=0)
    seen = project(camera, data.rotation[index], data.translation[index], corners).round().astype(int)
    for end, colour in zip(seen[1:], (_RED, _GREEN, _BLUE), strict=True):
        cv2.line(picture, tuple(map(int, seen[0])), tuple(map(int, end)), colour, 2 * factor, cv2.LINE_AA)
    return picture


def _with_outlines(data: Dataset, index: int) -> Picture:
    picture, mask = np.array(data.frames[index]), np.asarray(data.masks[index])
    for region, colour in ((mask > 0, _GREEN), (mask == HEAD, _RED)):
        lines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, colour, max(1, round(picture.shape[0] / 200)), cv2.LINE_AA)
    return picture


def _write_sheet(path: Path, pictures: list[Picture]) -> None:
    """Pictures side by side in rows."""
    tiles = [cv2.resize(p, (_TILE, _TILE), interpolation=cv2.INTER_AREA) for p in pictures]
    n_rows = -(-len(tiles) // _SHEET_COLUMNS)
    sheet = np.full((n_rows * _TILE, min(len(tiles), _SHEET_COLUMNS) * _TILE, 3), 251, np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, _SHEET_COLUMNS)
        sheet[row * _TILE : (row + 1) * _TILE, column * _TILE : (column + 1) * _TILE] = tile
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())


def _write_curves(folder: Path, data: Dataset, errors: Float) -> None:
    from scipy.spatial.transform import Rotation

    turned = (
        data.rotation * np.array([1, -1, -1], np.float32)[None, :, None]
    )  # the camera's axes as the head's
    angles = Rotation.from_matrix(turned).as_euler("YXZ", degrees=True)
    time = np.arange(data.n_frames) / FPS
    figure, axes = _figure(2)
    _draw(axes[0], time, angles, ("yaw", "pitch", "roll"), "degrees")
    moved = 1000 * (data.translation - np.median(data.translation, axis=0))
    _draw(axes[1], time, moved, ("right", "down", "away"), "mm from the median")
    _save(figure, folder / "pose.png")
    figure, axes = _figure(2)
    for axis, prefix in zip(axes, ("brow", "eye"), strict=True):
        columns = [i for i, name in enumerate(data.expression_names) if name.startswith(prefix)]
        names = tuple(data.expression_names[i] for i in columns)
        _draw(axis, time, data.expression[:, columns], names, f"{prefix}s")
    _save(figure, folder / "expression.png")
    figure, axes = _figure(1)
    _draw(axes[0], time, np.where(data.valid, errors, np.nan)[:, None], ("mean error",), "pixels")
    _save(figure, folder / "reprojection.png")


def _figure(n: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.4 * n + 0.4), layout="constrained", facecolor="#fbfbfa")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    axes[-1].set_xlabel("seconds")
    return figure, list(axes)


def _draw(
    axes: Axes, time: NDArray[np.float64], values: NDArray[Any], names: tuple[str, ...], unit: str
) -> None:
    for column, name, colour in zip(values.T, names, _LINES, strict=False):
        axes.plot(time, column, label=name, color=colour, linewidth=0.8)
    axes.set_ylabel(unit, color=_INK)
    axes.margins(x=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", fontsize=8, ncols=len(names), frameon=False)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _page(work: Workspace, data: Dataset, errors: Float) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("synctalk_trainer.prepare", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
    )
    known, pose = errors[data.valid], work.info["pose"]
    faces = data.landmarks[data.valid]
    return environment.get_template("report.html.j2").render(
        **{name: work.info[name] for name in ("source", "crop", "n_frames", "size", "warnings")},
        folder=str(work.folder),
        n_takes=len(data.takes),
        n_valid=int(data.valid.sum()),
        face_px=float(np.median(np.ptp(faces[..., 1], axis=1))),
        focal_px=data.camera.focal_px,
        reprojection_px=float(known.mean()),
        reprojection_worst=float(np.quantile(known, 0.99)),
        pose=pose,
        focal=focal_words(pose) if pose["poses"] == "stabilised" else "",
        seconds=[(name, step["seconds"]) for name, step in work.info["steps"].items()],
    )
