"""Let an avatar speak every wav of a folder, two at a time; run it again to go on after a stop.

python examples/speak_folder.py may.avatar lines/ out/
"""

from __future__ import annotations

import sys
from pathlib import Path

from synctalk import Avatar
from synctalk.batch import is_finished, plan, speak_all


def main(bundle: Path, folder: Path, out: Path) -> int:
    """How many failed."""
    out.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in plan(sorted(folder.glob("*.wav")), out) if not is_finished(task, bundle)]
    n_failed = 0
    for result in speak_all(Avatar.from_bundle(bundle), tasks, jobs=2):
        n_failed += result.error is not None
        print(f"{result.task.out}: {result.error or f'{result.n_frames} frames'}")
    return n_failed


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(min(1, main(*map(Path, sys.argv[1:]))))
