"""Print the trivial baselines of a prepared dataset: what any trained head must beat.

python scripts/baselines.py DATASET --holdout last --holdout takes:11
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from synctalk import SyncTalkError
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.measure import baseline_scores
from synctalk_trainer.split import split

_KEYS = ("psnr_full", "psnr_head", "psnr_face", "psnr_mouth", "ssim_full", "psnr_full_own", "lmd_px", "lip_r")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--holdout", action="append", help="last (default) or takes:K; may be given more than once"
    )
    arguments = parser.parse_args()
    print("| holdout | frames | baseline | " + " | ".join(_KEYS) + " |")
    print("|---" * (len(_KEYS) + 3) + "|")
    try:
        data = Dataset.open(arguments.dataset)
        for holdout in arguments.holdout or ["last"]:
            train, held = split(data.takes, data.n_frames, holdout, data.valid)
            for name, figures in baseline_scores(data, train, held).items():
                cells = [f"{figures[key]:.3f}" if key in figures else "-" for key in _KEYS]
                print(f"| {holdout} | {len(held)} | {name} | " + " | ".join(cells) + " |")
    except SyncTalkError as error:
        print(f"baselines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
