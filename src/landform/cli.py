"""The command line: list, show, run, report, data.

Commands import what they need when they run, so that `landform list` answers without loading torch. Every mistake of
the user's ends in one line on standard error and exit status 2; a run in which a trial failed exits with 1.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from landform.catalog import Paper
    from landform.lab.engines.ray import Ray
    from landform.lab.engines.together import Scale, Together

app = typer.Typer(
    help="61 papers on how neural networks generalise, each a component and a study that you can repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEFAULT_STORE = Path("landform.sqlite")
DEFAULT_REPORT = Path("report")

StoreOption = Annotated[Path, typer.Option("--store", metavar="PATH", help="The SQLite file that keeps results.")]


class PresetName(StrEnum):
    """How large a study is run."""

    smoke = "smoke"
    laptop = "laptop"
    paper = "paper"


class EngineName(StrEnum):
    """What carries out the trials."""

    local = "local"
    ray = "ray"


class StrategyName(StrEnum):
    """How Fabric spreads a training."""

    auto = "auto"
    ddp = "ddp"
    ddp_find_unused_parameters_true = "ddp_find_unused_parameters_true"


class PrecisionName(StrEnum):
    """The numbers that Fabric trains in; not 16-mixed, since it scales the loss, which no closure can have."""

    single = "32-true"
    double = "64-true"
    bfloat = "bf16-true"
    bfloat_mixed = "bf16-mixed"


@app.command("list")
def list_papers(
    area: Annotated[str | None, typer.Option(metavar="A", help="Only the papers of this area.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List the papers, by area, and which of them have a study."""
    from landform.catalog import papers

    with _usage():
        chosen = papers(area)
    if as_json:
        print(json.dumps([_paper_document(paper) for paper in chosen], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=["", "dim"])
    for column in ("area", "slug", "title", "arXiv", "year", "study"):
        table.add_column(column, overflow="fold", no_wrap=column in {"area", "slug", "arXiv", "year", "study"})
    for paper in chosen:
        study = "[green]yes[/]" if paper.has_study else "—"
        table.add_row(paper.area, f"[bold]{paper.slug}[/]", paper.title, paper.arxiv or "", str(paper.year), study)
    console = Console()
    console.print(table)
    ready = sum(paper.has_study for paper in chosen)
    console.print(f"\n{len(chosen)} papers, {ready} with a study. `landform show SLUG` tells more of one.")


@app.command()
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The paper's name, as `landform list` prints it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Show one paper: what it claims, where it is from, whether its study exists."""
    from landform.catalog import paper as find

    with _usage():
        paper = find(slug)
    if as_json:
        print(json.dumps(_paper_document(paper), indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(f"[bold]{paper.title}[/]")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _paper_document(paper).items():
        if name == "study":
            value = f"landform run {paper.slug}" if value else "not yet"
        if name != "title" and value:
            table.add_row(f"[dim]{name}[/]", str(value))
    console.print(table)


def _paper_document(paper: Paper) -> dict[str, Any]:
    return {
        "slug": paper.slug,
        "title": paper.title,
        "arxiv": paper.arxiv,
        "venue": paper.venue,
        "year": paper.year,
        "area": paper.area,
        "code": paper.code,
        "component": paper.component,
        "claim": paper.claim,
        "study": paper.has_study,
    }


@app.command()
def run(
    slugs: Annotated[list[str] | None, typer.Argument(metavar="SLUG…", help="The studies to run.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run every study there is.")] = False,
    preset: Annotated[PresetName, typer.Option(help="How large: seconds, minutes, or the paper's own scale.")] = (
        PresetName.laptop
    ),
    seeds: Annotated[int | None, typer.Option(metavar="N", help="How many reported seeds (1 or more).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the study's Config.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="What carries out the trials: processes of this machine, or a Ray cluster.")
    ] = EngineName.local,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A", help="The Ray cluster: HOST:PORT, ray://HOST:PORT or auto. Default: one on this machine."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Trials at once; 0 runs inline. Default: one a core.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Lightning Fabric: each trial, one at a time, trains on N devices of this node at once. They share the"
            " study's batches, and rank 0 records. It helps studies that train with run.fabric; others only do the"
            " same work in every process.",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="… and on N nodes: begin the command on each by torchrun --no-python landform run …"
        ),
    ] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="How Fabric spreads a training.")] = None,
    precision: Annotated[PrecisionName | None, typer.Option(help="The numbers that Fabric trains in.")] = None,
    store: StoreOption = DEFAULT_STORE,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute again what the store already has.")] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Run studies and print what their claims came to. Finished trials are taken from the store."""
    from landform.lab.discover import load_study, study_slugs
    from landform.lab.errors import UsageError
    from landform.lab.plan import Plan
    from landform.lab.runner import run_study
    from landform.lab.store import Store
    from landform.terminal import Bar, print_findings, progress_bars, run_document

    if everything == bool(slugs):
        raise UsageError("name one or more studies, or --all for every one, not both")
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: 0 or more")
    overrides = _overrides(settings or [])
    scale = _scale(device, devices, nodes, strategy, precision)
    if address is not None and engine is not EngineName.ray:
        raise UsageError(f"--address {address}: only with --engine ray")
    if scale is not None and (engine is EngineName.ray or workers is not None):
        raise UsageError("--devices, --nodes, --strategy, --precision: not with --engine ray or --workers")
    studies = [load_study(slug) for slug in (study_slugs() if everything else dict.fromkeys(slugs or ()))]
    for study in studies:  # Every mistake is found before the first trial starts and before a store is made.
        Plan(study, preset, seeds=seeds, overrides=overrides, fingerprint="", device=device)
    carrier = _engine(engine, address, workers, device, scale)

    results = []
    # Standard output is for the results alone, whatever a library prints on the way.
    with (
        closing(carrier) if carrier is not None else nullcontext(),
        redirect_stdout(sys.stderr),
        Store(store, create=True) as opened,
        progress_bars() as bars,
    ):
        for study in studies:
            result = run_study(
                study,
                preset,
                seeds=seeds,
                overrides=overrides,
                store=opened,
                workers=workers,
                device=device if scale is None else str(scale),
                engine=carrier,
                fresh=fresh,
                observer=Bar(bars, study.slug),
            )
            results.append(result)
    if as_json:
        print(json.dumps(run_document(store, results), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_findings(results, store)
    if any(result.trials.failed for result in results):
        raise typer.Exit(1)


@app.command()
def report(
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that the site is written to.")] = DEFAULT_REPORT,
) -> None:
    """Write a static site of every stored verdict, with figures: open its index.html in a browser.

    The store may be a folder of kept results too.
    """
    from landform.lab.kept import opened
    from landform.lab.report import write_report

    with opened(store) as results:
        index = write_report(results, out)
    print(f"The report is {index}: open it in a browser.")


@app.command()
def keep(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the text files go: one folder a study.")],
    slugs: Annotated[list[str] | None, typer.Argument(metavar="SLUG…", help="The studies; all unless given.")] = None,
    preset: Annotated[PresetName, typer.Option(help="Which of their runs.")] = PresetName.laptop,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Keep stored runs as text (CSV, JSON), for version control: `landform report --store FOLDER` judges them anew."""
    from landform.lab.kept import keep as write
    from landform.lab.store import Store

    with Store(store) as results:
        for path in write(results, folder, slugs or (), preset):
            print(path)


@app.command()
def data(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The contact sheet, a PNG picture.")] = Path("worlds.png"),
) -> None:
    """List the embedded worlds, and draw samples of each on one sheet."""
    from landform.data import contact_sheet, worlds

    with _usage():
        sheet = contact_sheet(out)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("world", "what it is", "splits", "sample", "classes"):
        table.add_column(column)
    for world in worlds():
        splits = ", ".join(f"{name} {size:,}" for name, size in world.sizes.items())
        shape = "×".join(map(str, world.shape)) or "1 byte"
        table.add_row(f"[bold]{world.uri}[/]", world.what, splits, shape, str(world.classes or "—"))
    console = Console()
    console.print(table)
    own = "folder:PATH, idx:PATH, parquet:PATH, omniglot:PATH or hf:NAME"
    console.print(f"\nYour own data: {own} wherever a study takes data.")
    console.print(f"Samples of each: {sheet}", soft_wrap=True)


def main() -> None:
    """Run the command line: exit 0 when all went well, 1 when a trial failed, 2 for a mistake, 130 after Ctrl-C."""
    from landform.lab.errors import LabError

    # What typer refuses is its own exception, or click's as long as typer stands on click (below 0.21).
    refused = getattr(typer, "TyperException", None) or importlib.import_module("click").ClickException
    try:
        status = app(standalone_mode=False)
    except refused as error:
        status = _refuse(error.format_message())
    except LabError as error:
        status = _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort) as error:
        print(f"landform: {error or 'interrupted'}", file=sys.stderr)
        status = 130
    sys.exit(status)


def _scale(
    device: str, devices: int | None, nodes: int | None, strategy: StrategyName | None, precision: PrecisionName | None
) -> Scale | None:
    """What was asked for of Fabric, if anything was."""
    asked = {"devices": devices, "nodes": nodes, "strategy": strategy, "precision": precision}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return None
    from landform.lab.engines.together import Scale

    return Scale(device, **given)  # type: ignore[arg-type]


def _engine(
    engine: EngineName, address: str | None, workers: int | None, device: str, scale: Scale | None
) -> Ray | Together | None:
    """What takes the trials off this machine's processes, if anything does. Of a Fabric's processes, only rank 0 goes
    on from here: the others follow it to the end."""
    from landform.lab.machine import check_device

    if engine is EngineName.ray:
        from landform.lab.engines.ray import Ray

        return Ray(address, count=workers, device=device)
    if scale is None:
        check_device(device)
        return None
    from landform.lab.engines.together import Together

    together = Together(scale.launch())
    if not together.leads:
        together.follow()
        raise typer.Exit
    return together


def _overrides(settings: list[str]) -> dict[str, str]:
    """``["steps=10"]`` as ``{"steps": "10"}``."""
    from landform.lab.errors import UsageError

    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r}: write KEY=VALUE")
        if key in overrides:
            raise UsageError(f"--set {key}: given twice")
        overrides[key] = value
    return overrides


@contextmanager
def _usage() -> Iterator[None]:
    """What the user asked for, and the library refuses, is a mistake in the command."""
    from landform.lab.errors import UsageError

    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _refuse(message: str) -> int:
    print("landform: " + " ".join(message.split()), file=sys.stderr)
    return 2
