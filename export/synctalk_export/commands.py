"""``synctalk export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="Folder that `synctalk train -o` wrote.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The bundle: NAME.avatar (one file) or a new folder.")
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="Where the dataset is now, if it moved since the training.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The avatar's name; the file's name if left out.")] = None,
    consent: Annotated[
        str, typer.Option(help="Who agreed to this likeness being used; for what; until 2027-01-01.")
    ] = "not stated",
    licence: Annotated[
        str, typer.Option(help="Terms under which others may use the avatar.")
    ] = "all rights reserved",
    plate_seconds: Annotated[
        float, typer.Option(min=1.0, max=60.0, help="Length of the recorded motion that is played.")
    ] = 12.0,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Quality of the plate video, 0 is best.")] = 20,
) -> None:
    """Turn a trained run into a bundle that apps load.

    PyTorch, ONNX and the native renderer are compared first; a bundle that is not the trained model is refused.

    Examples:

      synctalk export runs/may -o may.avatar

      synctalk export runs/may -o may.avatar --consent "May Lee; product demos; until 2027-11-02" --licence CC-BY-4.0
    """
    from rich.console import Console
    from synctalk.consent import Consent
    from synctalk.errors import ExportError

    try:
        consent = str(Consent.parse(consent, is_strict=True))
    except ValueError as error:
        raise ExportError(f"--consent: {error}") from None
    try:
        import onnx  # noqa: F401
        from synctalk_trainer.run import load_run
    except ImportError as error:
        raise ExportError(f"{error.name} is not installed: pip install 'synctalk[export]'") from None

    from .export import ExportOptions, export_bundle
    from .parity import parity_table
    from .subject import subject_of

    console = Console(highlight=False, soft_wrap=True)
    options = ExportOptions(licence=licence, consent=consent, plate_seconds=plate_seconds, crf=crf)
    with console.status("reading the run") as status:
        subject = subject_of(load_run(run, dataset), name or out.stem)
        done = export_bundle(subject, out, options, lambda stage: status.update(stage))
    console.print(parity_table(done.checks))
    size = sum(entry.bytes for entry in done.manifest.files.values())
    console.print(f"\n{out}  {size / 1e6:.1f} MB  id {done.manifest.id}")
    if consent == "not stated":
        console.print("consent: not stated. Name who agreed with --consent before others use this avatar.")
    console.print(f"next: synctalk speak {out} hello.wav -o hello.mp4")
