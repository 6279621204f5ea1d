"""The command line `cdt`. Every command checks all it was given before it starts anything."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cdtlib import machine

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

#: With fewer updates, level 5 has learned next to nothing.
FEW_UPDATES = 300

# Options that several commands share
Profile = Annotated[str, typer.Option(help="How big everything is: smoke, demo, photos, photos-gpu or paper.")]
Pair = Annotated[tuple[str, str] | None, typer.Option(metavar="A B", help="Two domains. Default: the profile's.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Photos = Annotated[Path | None, typer.Option(help="A folder that holds a folder of photos for each domain.")]
Weights = Annotated[Path | None, typer.Option(help="The backbone's weights: a file, or a folder of files.")]
Results = Annotated[Path | None, typer.Option(help="Where results go. Default: CDT_RESULTS, or results.")]
Out = Annotated[Path, typer.Option(help="The folder to make; each class gets one in it.")]
Url = Annotated[str | None, typer.Option(help="Another address of the archive, should it have moved.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Another setting: translation.5.epochs=20. Can be repeated."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without pictures that cannot be used.")]


@contextmanager
def refusals(several: bool = False, after: str = "The same command goes on where this one stopped.") -> Iterator[None]:
    """Turn errors that a user can mend into a message and an exit code: 2 refused, 1 failed, 130 interrupted.

    `after` says what becomes of an interrupted command.

    `several`: whether the command can run as several processes, under torchrun. The others are refused there: they
    would do everything several times over, into the same files.
    """
    from cdtlib.batch import NotebookError
    from cdtlib.book import BookError

    try:
        if not several and machine.processes()[0] > 1:
            raise ValueError("torchrun: only `cdt train` shares its work between processes; start this one by itself")
        yield
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, ValueError) and not _refused_here(error):
            raise  # a fault in the program, which needs its traceback
        _stop(str(error), 2)
    except (NotebookError, BookError, OSError) as error:
        _stop(str(error), 1)
    except RuntimeError as error:
        from cdtlib.processes import FirstFailed  # imports torch, which whoever raises it has imported
        from cdtlib.training.run import NonFiniteLoss

        if isinstance(error, FirstFailed):
            raise typer.Exit(1) from None  # the first has said why
        if not isinstance(error, NonFiniteLoss):
            raise
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop(f"Interrupted. {after}", 130)


def _refused_here(error: Exception) -> bool:
    """Whether the error was raised by this project's own code, not by a library that it calls."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).resolve().is_relative_to(Path(__file__).resolve().parent)


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(code) from None


def environment(photos: Path | None, weights: Path | None) -> None:
    """Pass the folders on through the environment, so that no path of this machine stands in a notebook."""
    for name, path in (("CDT_PHOTOS", photos), ("CDT_WEIGHTS", weights)):
        if path is not None:
            if not path.exists():
                raise FileNotFoundError(f"--{name[4:].lower()}: {path} does not exist.")
            os.environ[name] = str(path.resolve())


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help='Its number or its name: 3, 03, "deepest_translation".')],
    profile: Profile = "demo",
    pair: Pair = None,
    seed: Seed = None,
    changes: Changes = None,
    photos: Photos = None,
    weights: Weights = None,
    results: Results = None,
    skip_bad: SkipBad = False,
    force: Annotated[bool, typer.Option("--force", help="Run it even if it is up to date.")] = False,
) -> None:
    """Run one notebook and keep the executed copy in results/PROFILE/notebooks."""
    with refusals():
        from cdtlib import batch

        environment(photos, weights)
        if skip_bad:
            os.environ["CDT_SKIP_BAD"] = "1"
        job = batch.job(notebook, profile, pair, seed, changes, results)
        other = "Choose a profile for photos, such as --profile photos."
        if photos and job.draws:
            raise ValueError(f"--photos: profile {job.profile} draws its pictures. {other}")
        if weights and not job.weighs:
            raise ValueError(f"--weights: the networks of profile {job.profile} come with the project. {other}")
        batch.run(job, force=force)


@app.command()
def train(
    folder_a: Annotated[Path, typer.Argument(help="Photos of one class.")],
    folder_b: Annotated[Path, typer.Argument(help="Photos of the other class.")],
    method: Annotated[str, typer.Option(help="cascade, cyclegan, munit, drit or ganimorph.")] = "cascade",
    profile: Profile = "photos",
    seed: Seed = None,
    changes: Changes = None,
    weights: Weights = None,
    results: Results = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a method on two folders of photos; the same command resumes what was interrupted.

    On several GPUs: torchrun --nproc-per-node 2 -m cdtlib.cli train A B
    """
    with refusals(several=True):
        from cdtlib import processes
        from cdtlib.experiment import photo_domains
        from cdtlib.methods import METHODS
        from cdtlib.settings import load, overrides
        from cdtlib.training.translation import steps_of

        def checked():
            if method not in METHODS:
                raise ValueError(f"--method: there is no {method!r}; choose one of {', '.join(METHODS)}")
            pair = (folder_a.resolve().name, folder_b.resolve().name)
            if pair[0] == pair[1] and folder_a.resolve() != folder_b.resolve():
                raise ValueError(f"both folders are called {pair[0]!r}, and domains by their folders: rename one")
            if pair[0] == "b" or pair[1] == "a":
                raise ValueError("folders called 'b' and 'a' would be taken for the other side: rename them")
            changed = overrides([*(changes or []), "data.source=photos"])
            settings = load(profile, pair, seed or 0, **changed)
            if weights and settings.backbone.startswith("embedded"):
                raise ValueError(f"--weights: the backbone of profile {profile} comes with the project")
            domains = photo_domains(folder_a, folder_b, settings.data.size, skip_bad)
            for name, side in zip(pair, domains.values(), strict=True):
                print(f"{name}: {len(side['train'])} pictures to train on, {len(side['test'])} held out")
            rows = max(len(side["train"]) for side in domains.values()) * settings.data.views
            if method == "cascade" and (updates := steps_of(settings.translation[5], rows, rows)) < FEW_UPDATES:
                print(
                    f"So few pictures give level 5 only {updates} updates, and translations will show little: some "
                    "hundreds of pictures of each kind are needed.",
                    file=sys.stderr,
                )
            return settings, domains

        environment(None, weights)
        settings, domains = processes.first(checked)  # every picture is decoded once, every complaint made once
        folder = METHODS[method](settings, domains, (results or machine.results_root()) / profile).save()
        run = shlex.quote(str(folder))
        processes.first(lambda: print(f"Trained. Translate with: cdt translate PHOTO --run {run} --to b --out FOLDER"))
        processes.leave()


@app.command()
def translate(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO…", help="Pictures, or folders of pictures.")],
    run: Annotated[Path, typer.Option(help="The folder that `cdt train` named.")],
    to: Annotated[str, typer.Option(help='"a", "b", or the name of the domain to translate to.')],
    out: Annotated[Path, typer.Option(help="Folder for the translations, <name>-<domain>.png each.")],
    weights: Weights = None,
    skip_bad: SkipBad = False,
) -> None:
    """Translate photos with what `cdt train` trained."""
    with refusals(after="The pictures named above are written; the same command makes all of them again."):
        import torch
        from PIL import Image

        from cdtlib import methods
        from cdtlib.cascade import Cascade
        from cdtlib.data import to_float, to_uint8
        from cdtlib.data.photos import check_files, load, scan
        from cdtlib.files import atomic, make_folder

        environment(None, weights)
        trained, settings = methods.load(run, "cuda" if torch.cuda.is_available() else "cpu")
        names = dict(zip("ab", settings.pair, strict=True))
        side = {name: s for s, name in names.items()}.get(to, to)
        if side not in names:
            raise ValueError(f'--to: "a" ({names["a"]}) or "b" ({names["b"]}), not {to!r}')
        found = [f for p in photos for f in (scan(p, 1) if p.is_dir() else [p])]
        into = out.resolve()  # where it lies among the pictures, earlier translations are not to be translated again
        paths = list(check_files([f for f in found if f in photos or into not in f.resolve().parents], skip_bad))
        targets = [out / f"{path.stem}-{names[side]}.png" for path in paths]
        if doubled := sorted({str(t) for t in targets if targets.count(t) > 1}):
            raise ValueError(
                f"several photos would be written to {doubled[0]}: translate them into folders of their own"
            )
        make_folder(out)
        # A rival gives each picture of a call a style of its own
        at_once = 16 if isinstance(trained, Cascade) else 512
        for start in range(0, len(paths), at_once):
            some = slice(start, start + at_once)
            images = torch.stack([load(path, settings.data.size) for path in paths[some]])  # (N, 3, size, size)
            made = to_uint8(trained.translate(to_float(images), side)).permute(0, 2, 3, 1).numpy()
            for target, picture in zip(targets[some], made, strict=True):
                with atomic(target) as temporary:
                    Image.fromarray(picture).save(temporary)
                print(target, flush=True)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; its record goes beside it.")],
    architecture: Annotated[str, typer.Option(help="vgg19 or alexnet.")] = "vgg19",
    pictures: Annotated[int, typer.Option(min=1, help="Of each invented species.")] = 270,
    epochs: Annotated[float, typer.Option(min=0.01)] = 5.0,
    results: Results = None,
) -> None:
    """Make an embedded backbone anew: a network of a quarter of the width, trained on the zoo's invented species."""
    with refusals():
        from cdtlib.files import make_folder
        from cdtlib.training.classification import pretrain_embedded

        if out.suffix != ".safetensors":
            raise ValueError(f"--out: the weights become a .safetensors file, not {out.name!r}")
        make_folder(out.parent)
        root = (results or machine.results_root()) / "demo" / "runs"
        record = pretrain_embedded(root, out, architecture=architecture, pictures=pictures, epochs=epochs)
        print(f"{out}: {record['accuracy']:.1%} of {record['n']} held-out pictures right")


@app.command()
def book(profile: Profile = "demo") -> None:
    """Build the book from the results at hand, into _build/html."""
    with refusals():
        from cdtlib.book import build

        first = build(profile)
        print(f"The book is ready. Open {machine.short(first)} in a browser.")


data_app = typer.Typer(no_args_is_help=True, help="Fetch the paper's data sets, as folders of photos.")
app.add_typer(data_app, name="data")

From = Annotated[
    list[Path] | None,
    typer.Option("--from", metavar="PATH", help="A local archive or folder instead of a download. Can be repeated."),
]
Test = Annotated[float, typer.Option("--test", help="Share of the pictures that is held out.")]


@data_app.command("coco")
def data_coco(
    classes: Annotated[list[str], typer.Option(metavar="CLASS…", help="COCO's names: zebra giraffe elephant.")],
    more: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="CLASS")] = None,  # all but the first
    out: Out = Path("photos/coco"),
    subset: Annotated[str, typer.Option(help="train2017 or val2017.")] = "train2017",
    min_area: Annotated[
        float, typer.Option(help="Share of the picture that its largest animal of the class covers at least.")
    ] = 0.0,
    crowd: Annotated[
        str,
        typer.Option(
            help="Boxes around a crowd: keep (count as an animal), ignore (do not), drop (leave such pictures out)."
        ),
    ] = "keep",
    test: Test = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of what is held out.")] = 0,
    sources: From = None,
    url: Annotated[str | None, typer.Option(help="Another address of annotations/ and train2017/.")] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Pictures of COCO 2017 that show one of the classes, and only those.

    Pictures that show several of the classes are left out. --from takes annotations_trainval2017.zip (or the JSON in
    it) and a folder or zip of pictures; what is not given is fetched.
    """
    with refusals():
        from cdtlib.data import download

        options = {"subset": subset, "min_area": min_area, "crowd": crowd, "test_fraction": test, "seed": seed}
        options |= {"sources": sources or [], "url": url or download.COCO_URL, "skip_bad": skip_bad}
        _tell(out, download.coco(out, [*classes, *(more or [])], **options))


@data_app.command("cat2dog")
def data_cat2dog(
    out: Out = Path("photos/cat2dog"), sources: From = None, url: Url = None, skip_bad: SkipBad = False
) -> None:
    """Faces of cats and dogs, by the authors of DRIT, on their sides of training and test."""
    with refusals():
        from cdtlib.data import download

        options = {"sources": sources or [], "url": url or download.CAT2DOG.url, "skip_bad": skip_bad}
        _tell(out, download.cat2dog(out, **options))


@data_app.command("kaggle-cats-dogs")
def data_kaggle_cats_dogs(
    out: Out = Path("photos/kaggle-cats-dogs"),
    test: Test = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of what is held out.")] = 0,
    sources: From = None,
    url: Url = None,
    skip_bad: SkipBad = False,
) -> None:
    """Kaggle's cats and dogs, in Microsoft's edition; --from also takes Kaggle's own train.zip."""
    with refusals():
        from cdtlib.data import download

        options = {"sources": sources or [], "url": url or download.KAGGLE.url, "skip_bad": skip_bad}
        _tell(out, download.kaggle_cats_dogs(out, test_fraction=test, seed=seed, **options))


def _tell(out: Path, record: dict) -> None:
    import pandas as pd

    counts = pd.DataFrame.from_dict(record["classes"], orient="index").rename(columns={"paper": "the paper's"})
    print(counts.astype("Int64").to_string(na_rep="–"))
    if record["left_out"]:
        print(f"{len(record['left_out'])} pictures were left out; dataset.json says which, and why.")
    print(f"{out} is ready; {out / 'contact-sheet.jpg'} shows some of it.")
    a, *others = record["classes"]
    for b in others[:1]:
        paths = [shlex.quote(str(part)) for part in (a, b, out, out / a, out / b)]
        print("  cdt run 04 --profile photos --pair {} {} --photos {}\n  cdt train {} {}".format(*paths))


if __name__ == "__main__":
    app()
