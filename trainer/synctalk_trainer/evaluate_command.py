"""``synctalk evaluate``: a run on its held-out frames, or avatars with voices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from .evaluate import Options

__all__ = ["evaluate"]

_LISTS = ("--voices",)
"""Options that take all values up to the next option, so that ``--voices speech/*.wav`` works."""

evaluate = typer.Typer(add_completion=False, rich_markup_mode="rich")


class _WithLists(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _repeated(args))


def _repeated(args: list[str]) -> list[str]:
    """``--voices A B`` as ``--voices A --voices B``."""
    out: list[str] = []
    option: str | None = None
    for arg in args:
        if arg.startswith("-"):
            option = arg if arg in _LISTS else None
            if option is None:
                out.append(arg)
        else:
            out += [arg] if option is None else [option, arg]
    return out


@evaluate.command(cls=_WithLists)
def _evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folder that `synctalk train -o` wrote; with --voices also bundles."
        ),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there as well.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER_RUN", help="Another evaluated run to show beside this one.")
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            help="last, or takes:K for every K-th take; the run's own by default. Trained frames are refused."
        ),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Where the dataset is now, if it moved since the training.")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", min=3, help="Judge about N frames (of each voice) only, for a quick look."),
    ] = None,
    landmarker: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another copy of face_landmarker.task than the packaged one."),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A perceptual distance as TorchScript, to be measured as well."),
    ] = None,
    voices: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="VOICE...",
            help="Let the avatar speak these and measure its lips: datasets (`prepare --steps sound,landmarks` will do), videos, "
            "sounds, or folders of them.",
            rich_help_panel="Other people's voices",
        ),
    ] = None,
    espeak: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="N sentences of espeak-ng, too, where p, b, m are known.",
            rich_help_panel="Other people's voices",
        ),
    ] = 0,
    phonemes: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="When p, b, m are heard: a folder of NAME.phonemes.json, or one such file.",
            rich_help_panel="Other people's voices",
        ),
    ] = None,
    own: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            help="The film that a bundle was made from; runs know theirs.",
            rich_help_panel="Other people's voices",
        ),
    ] = None,
    film: Annotated[
        bool,
        typer.Option(
            "--film",
            help="Films of speaker and avatar side by side.",
            rich_help_panel="Other people's voices",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Instead of RUN/evaluation_voices.",
            rich_help_panel="Other people's voices",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Speak finished voices again.", rich_help_panel="Other people's voices"),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="End with status 1 if a bar is missed.", rich_help_panel="Other people's voices"
        ),
    ] = False,
) -> None:
    """Judge a run on frames it never saw: figures, pictures, a side-by-side video.

    Every table carries two trivial baselines: the mean training frame, and the training frame with the nearest
    landmarks. Writes RUN/evaluation.json and RUN/evaluation/report.html.

    With --voices or --espeak, runs and bundles speak with other people's voices, and their lips are held against the
    filmed ones. Writes voices.json, report.html and the matrix of all avatars and voices; run again, it does only what
    is missing.

    Examples:

      synctalk evaluate runs/may

      synctalk evaluate runs/may --against runs/may-paper --json may.json

      synctalk evaluate runs/may --voices data/lee lines/*.wav --film

      synctalk evaluate may.avatar lee.avatar --voices talkers/ --espeak 15 -o out/matrix
    """
    from synctalk.errors import TrainingError

    if voices or espeak:
        if against is not None or lpips is not None:
            raise TrainingError(
                "--against and --lpips judge held-out frames: leave them away, or --voices and --espeak"
            )
        from .cross_voice.command import Request, evaluate_voices

        request = Request(
            tuple(runs),
            tuple(voices or ()),
            espeak,
            phonemes,
            own or dataset,
            holdout,
            out,
            landmarker,
            film,
            frames,
            force,
        )
        is_good = evaluate_voices(request, json_file)
        raise typer.Exit(1 if check and not is_good else 0)
    from .evaluate import Options

    if len(runs) > 1:
        raise TrainingError(
            f"{len(runs)} runs are given: choose one, or name --voices for them to speak with"
        )
    _judge_run(runs[0], Options(dataset, holdout, against, frames, lpips), json_file, landmarker)


def _judge_run(run: Path, options: Options, json_file: Path | None, landmarker: Path | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from .detect import picture_detector
    from .evaluate import evaluate as judge_run
    from .evaluation_report import figure_table
    from .run import write_json

    console = Console(highlight=False)
    with (
        picture_detector(landmarker) as detect,
        Progress(console=console, transient=True) as bar,
    ):
        task = bar.add_task("render", total=None)
        figures = judge_run(
            run, detect, options, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if json_file is not None:
        write_json(json_file, figures)
    console.print(figure_table(figures))
    for sentence in figures["verdicts"]:
        console.print(f"- {sentence}")
    console.print(f"\n{run / 'evaluation' / 'report.html'}")
