"""Commands of the trainer, as functions for typer; each imports what it needs when it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .evaluate_command import evaluate

if TYPE_CHECKING:
    from .audio_branch import Hearing

__all__ = ["evaluate", "prepare", "refit", "synthesize", "train", "train_upsampler"]


def prepare(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="A video with sound of one person speaking.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DATASET", help="Folder for the dataset.")],
    size: Annotated[
        int | None,
        typer.Option(min=64, max=1024, help="Side of the pictures; the crop's own, at most 512, by default."),
    ] = None,
    takes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON with `takes` (pairs of first frame and end) or `frames_per_take`; else cuts are found.",
        ),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Only these, as in landmarks,pose, and what they lack; all by default."
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Run the steps again though nothing has changed.")
    ] = False,
    landmarker: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another copy of face_landmarker.task than the packaged one."),
    ] = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Another copy of selfie_segmentation.tflite than the packaged one."
        ),
    ] = None,
    landmark_poses: Annotated[
        bool, typer.Option("--landmark-poses", help="Head poses of the landmarks alone, not stabilised.")
    ] = False,
    sound_shift: Annotated[
        float,
        typer.Option(
            metavar="MS",
            help="Move the sound by so many milliseconds: later, or below 0 earlier; 0 by default.",
        ),
    ] = 0.0,
) -> None:
    """Turn a video of one person into a dataset for training.

    Best: two to five minutes of one person facing a camera that stands still, well lit, speaking clearly.

    Look at DATASET/report.html before you train. Run again, it does only what is missing or has changed.

    Steps: media, sound, landmarks, masks, plate, landmark_pose, tracks, pose, expression, sync, report.

    Examples:

      synctalk prepare may.mp4 -o data/may

      synctalk prepare may.mp4 -o data/may256 --size 256

      synctalk prepare may.mp4 -o data/may --steps pose,report --force

      synctalk prepare may.mp4 -o data/may --sound-shift -120
    """
    from rich.console import Console
    from rich.markup import escape
    from synctalk.spec import FPS

    from .prepare import Options
    from .prepare import prepare as prepare_video

    console = Console(highlight=False, soft_wrap=True)
    names = tuple(name.strip() for name in steps.split(",") if name.strip())
    poses: Literal["landmarks", "stabilised"] = "landmarks" if landmark_poses else "stabilised"
    options = Options(size, takes, poses, sound_shift, landmarker, segmenter)
    done = prepare_video(video, out, options, names, force, console)
    for warning in done.warnings:
        console.print(f"[yellow]warning[/] ({warning['step']}): {escape(warning['message'])}")
    if done.kept:
        console.print(f"unchanged: {', '.join(done.kept)}")
    console.print(f"{out}: {done.n_frames} frames of {done.size} x {done.size}, {done.n_frames / FPS:.1f} s")
    console.print(f"look at {out / 'report.html'}, then: synctalk train {out} -o {out.name}-run")


def train(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder that `synctalk prepare -o` wrote.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder for the run.")],
    preset: Annotated[
        str, typer.Option(help="default: ours; tiny: minutes on a laptop; paper: the published design.")
    ] = "default",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            help="Take training steps for so long (30 if neither this nor --steps is given). Preparation, checkpoints and "
            "previews come on top: a minute or two, shown at the end.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead.")] = None,
    holdout: Annotated[
        str,
        typer.Option(
            help="Frames to keep for evaluation: last (1/11 of the clip), or takes:K (every K-th take)."
        ),
    ] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all that there are by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    lpips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A perceptual distance as TorchScript, added to the patches' loss."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A speech encoder of your own, an .onnx file that hears beside the generic model in the subject's voice.",
        ),
    ] = None,
    speech_to_mouth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Another generic model, which `synctalk train-audio` wrote; the packaged one by default.",
        ),
    ] = None,
    expression: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="ARKit coefficients to learn beside brows and blinks, as in mouthSmileLeft,mouthSmileRight: each is a slider.",
        ),
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN, exactly.")] = False,
) -> None:
    """Train an avatar from a prepared dataset.

    Saves a checkpoint and a preview picture every two minutes, less often where that takes long; Ctrl-C saves too, and
    --resume goes on.

    Examples:

      synctalk train data/may -o runs/may --minutes 60

      synctalk train data/may -o runs/may --resume

      synctalk train data/may -o runs/quick --preset tiny --steps 500

      synctalk train data/may -o runs/may --expression jawOpen,mouthSmileLeft,mouthSmileRight
    """
    from rich.console import Console
    from synctalk.errors import TrainingError

    from .run import Settings
    from .train_command import train_run

    started = time.monotonic()
    if minutes is not None and steps is not None:
        raise TrainingError("both --minutes and --steps are given: choose one")
    settings = Settings(
        dataset=str(dataset.resolve()),
        preset=preset,
        minutes=None if steps is not None else minutes or 30.0,
        steps=steps,
        holdout=holdout,
        seed=seed,
        lpips=None if lpips is None else str(lpips.resolve()),
    )
    console = Console(highlight=False)
    hearing = _hearing(encoder, speech_to_mouth)
    more = tuple(name.strip() for name in expression.split(",") if name.strip())
    trainer = train_run(dataset, out, settings, resume, device, threads, console, hearing, more)
    console.print(
        f"trained {trainer.clock.step} steps in {trainer.clock.seconds / 60:.1f} min: {out} (this call: "
        f"{(time.monotonic() - started) / 60:.1f} min, with preparation, checkpoints and previews)"
    )
    console.print(f"next: synctalk evaluate {out}, then synctalk export {out} -o {out.name}.avatar")


def refit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `synctalk train -o` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="NEW_RUN", help="Where the new run goes.")],
    dataset: Annotated[
        Path | None, typer.Option(help="Where the dataset is now, if it moved since the training.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A speech encoder of your own, as for `synctalk train`."),
    ] = None,
    speech_to_mouth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another generic model, as for `synctalk train`.")
    ] = None,
) -> None:
    """Fit a run's audio branch again, in a minute or two; the field stays as it is.

    Use it to let the lips of a run that an older version trained follow any voice, or to try another generic model.

    Examples:

      synctalk refit runs/may -o runs/may-any-voice

      synctalk refit runs/may -o runs/may-2 --speech-to-mouth speech_to_mouth.onnx
    """
    from rich.console import Console

    from .refit import refit as fit_again

    figures = fit_again(run, out, dataset, _hearing(encoder, speech_to_mouth))
    console = Console(highlight=False)
    console.print(
        f"{out}: r of the mouth {figures['correlation']:.2f} in the subject's own voice, "
        f"{figures['generic_correlation']:.2f} by the generic model alone"
    )
    console.print(f"next: synctalk evaluate {out}, then synctalk export {out} -o {out.name}.avatar")


def _hearing(encoder: str | None, speech_to_mouth: Path | None) -> Hearing | None:
    """The models to hear with; None for the usual ones."""
    from .audio_branch import Hearing
    from .audio_visual.encoder import chosen_encoder, generic_model, read_generic

    if encoder is None and speech_to_mouth is None:
        return None
    generic = generic_model() if speech_to_mouth is None else read_generic(speech_to_mouth)
    return Hearing(generic, chosen_encoder(encoder))


def synthesize(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where video.mp4 and truth.npz go.")
    ],
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of the clip.")] = 150.0,
    size: Annotated[int, typer.Option(min=64, help="Side of the square picture in pixels; even.")] = 360,
    seed: Annotated[int, typer.Option(min=0, help="Chooses face, colours, motion and voice.")] = 0,
    head: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The ICT-FaceKit light mesh (.npz); without it, a plain procedural head."
        ),
    ] = None,
    fps: Annotated[int, typer.Option(min=10, max=60, help="Frames per second.")] = 25,
    babble: Annotated[
        bool, typer.Option("--babble", help="Built-in syllables instead of espeak-ng.")
    ] = False,
    turn: Annotated[float, typer.Option(min=0.0, max=4.0, help="Factor on how far the head turns.")] = 1.0,
    grain: Annotated[float, typer.Option(min=0.0, max=20.0, help="Noise of the sensor, of 255.")] = 0.9,
) -> None:
    """Render a talking computer-generated person, with exact poses, masks and expressions.

    Needs the library espeak-ng for speech (Debian: apt install espeak-ng), unless --babble is given.

    Examples:

      synctalk synthesize -o demo_clip --head ict_facekit_light.npz --seed 4

      synctalk synthesize -o test_clip --seconds 6 --size 128 --babble
    """
    from rich.console import Console

    from .synthetic import synthesize as render_clip

    video = render_clip(out, seconds, size, seed, head, fps, "babble" if babble else "espeak", turn, grain)
    Console(highlight=False).print(f"{video}\n{out / 'truth.npz'}")


def train_upsampler(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `synctalk train -o` wrote.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 4.0,
    width: Annotated[int, typer.Option(help="Channels: 16, or 32 (better, three times the work).")] = 16,
    levels: Annotated[int, typer.Option(min=1, max=4, help="Sizes that the network sees.")] = 3,
    dataset: Annotated[
        Path | None, typer.Option(help="Where the dataset is now, if it moved since the training.")
    ] = None,
) -> None:
    """Teach a run to render heads at half the size and restore them: a quarter of the rays, and hair and teeth as sharp.

    Judged on held-out frames beside the head at full size; `synctalk export` takes it into the bundle if it costs 0.3
    dB at most, of the frame, the head and the mouth.

    Examples:

      synctalk train-upsampler runs/may

      synctalk train-upsampler runs/may --minutes 10 --width 32
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from synctalk.errors import TrainingError
    from synctalk.spec import UpsamplerSpec

    from .run import load_run
    from .upsampler import train_upsampler as train

    if width not in (16, 32, 48, 64):
        raise TrainingError(f"--width {width}: choose 16, 32, 48 or 64")
    opened, console = load_run(run, dataset), Console(highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=1.0)
        figures = train(
            opened,
            minutes,
            UpsamplerSpec(width, levels, expression=opened.spec.field.expression),
            lambda what, share: bar.update(task, description=what, completed=share),
        )
    columns = {
        "full, dB": ("psnr_full", 2),
        "head": ("psnr_head", 2),
        "face": ("psnr_face", 2),
        "mouth": ("psnr_mouth", 2),
        "hair": ("psnr_hair", 2),
        "SSIM": ("ssim_head", 3),
        "flicker": ("flicker", 2),
    }
    parts = {
        f"{figures['frames']} held-out frames": figures,
        "the same with the filmed mouth": figures["told"],
    }
    for title, scores in parts.items():
        table = Table(title=title, title_justify="left")
        table.add_column("", no_wrap=True)
        for heading in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for name, words in {
            "full": "full size",
            "bilinear": "half, bilinear",
            "half": "half, upsampled",
        }.items():
            row = scores[name]
            cells = (f"{row[key]:.{digits}f}" if key in row else "" for key, digits in columns.values())
            table.add_row(words, *cells)
        console.print(table)
    console.print(f"the clip itself flickers by {figures['flicker_truth']:.2f}")
