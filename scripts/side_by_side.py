"""Train several designs at the same time, a thread each, and compare them on frames they never saw.

    python scripts/side_by_side.py -o runs/presets/french --minutes 12 \
        default="data/french" paper="data/french --preset paper"

Each NAME="DATASET [options of synctalk train]" becomes the run OUT/NAME. What else runs on the machine slows all of them alike.
A run that is there already and finished is not trained again. The table goes to OUT/table.md, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROWS = (
    ("psnr_full", "PSNR full, dB", 2),
    ("psnr_head", "PSNR head mask, dB", 2),
    ("psnr_face", "PSNR face, dB", 2),
    ("psnr_mouth", "PSNR mouth, dB", 2),
    ("psnr_hair", "PSNR hair and ears, dB", 2),
    ("ssim_head", "SSIM head mask", 3),
    ("lmd_px", "landmark distance, px", 2),
    ("lip_r", "lip aperture r", 3),
    ("lip_gain", "lip gain", 2),
    ("lip_lag_ms", "lip lag, ms", 0),
    ("lip_jitter", "lip jitter", 4),
    ("lip_jitter_truth", "lip jitter of the truth", 4),
    ("head_jitter_px", "head jitter, px", 3),
    ("head_jitter_truth_px", "head jitter of the truth, px", 3),
    ("blink_f1", "blink F1", 2),
    ("flicker", "flicker in the head", 2),
    ("steps_trained", "steps trained", 0),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "designs", nargs="+", metavar="NAME=TRAIN", help="a name and arguments of `synctalk train`"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--minutes", type=float, help="train each for so long")
    limit.add_argument("--steps", type=int, help="or for so many steps, where other work comes and goes")
    parser.add_argument("--frames", type=int, help="judge about so many frames only")
    arguments = parser.parse_args()
    designs = dict(text.split("=", 1) for text in arguments.designs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    budget = ["--steps", str(arguments.steps)] if arguments.steps else ["--minutes", str(arguments.minutes)]
    if not train_all(designs, arguments.out, budget):
        return 1
    for name in designs:
        some = [] if arguments.frames is None else ["--frames", str(arguments.frames)]
        subprocess.run([*_SYNCTALK, "evaluate", str(arguments.out / name), *some], check=True)
    table = tabulated({name: _figures(arguments.out / name) for name in designs})
    (arguments.out / "table.md").write_text(table)
    print(table)
    return 0


_SYNCTALK = (sys.executable, "-m", "synctalk")


def train_all(designs: dict[str, str], out: Path, budget: list[str]) -> bool:
    """Train all designs at once; whether all of them ended well."""
    running = {}
    for name, text in designs.items():
        if (out / name / "finished").exists():
            continue
        options = ["-o", str(out / name), *budget, "--threads", "1"]
        with (out / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(
                [*_SYNCTALK, "train", *shlex.split(text), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
    failed = [name for name, process in running.items() if process.wait() != 0]
    for name in running:
        if name in failed:
            print(f"{name} failed: look at {out / name}.log", file=sys.stderr)
        else:
            (out / name / "finished").touch()
    return not failed


def _figures(run: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return figures


def tabulated(runs: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, a column for each run."""
    lines = ["| | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for key, label, digits in _ROWS:
        values = [figures.get(key) for figures in runs.values()]
        cells = ["–" if value is None else f"{value:.{digits}f}" for value in values]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
