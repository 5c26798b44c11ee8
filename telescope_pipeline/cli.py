"""The command ``telescope``.

Nothing heavy is imported before a command needs it, so help and validation are immediate.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from telescope_core.errors import ParametersError, TelescopeError
from telescope_pipeline.schemas.messages import presentable
from telescope_pipeline.signals import Stopped, listen

_FIRST, _STAGES, _THEN = "To begin with", "Stages, run by `dvc repro`", "Besides"
_IN_ORDER = (
    *("demo", "init", "validate", "estimate", "doctor"),
    *("prepare", "train", "metrics", "plot", "publish", "report"),
    *("trial", "sync", "cost", "wire"),
)


class _InOrder(TyperGroup):
    """Lists commands in the order in which they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return [*(n for n in _IN_ORDER if n in names), *(n for n in names if n not in _IN_ORDER)]


app = typer.Typer(
    name="telescope",
    cls=_InOrder,
    help="Telescope: what a neural network has learned, step by step.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

_DEFAULT = Path("params.yaml")


def _cases_like(context: typer.Context, incomplete: str) -> list[str]:
    """Names of cases for the shell to complete; none while the file is not valid."""
    from telescope_pipeline.parameters import load_parameters

    try:
        known = load_parameters(context.params.get("params") or _DEFAULT).cases
    except TelescopeError:
        return []
    return [name for name in known if name.startswith(incomplete)]


_CaseName = Annotated[
    str,
    typer.Argument(
        metavar="CASE", help="A case in the parameter file.", autocompletion=_cases_like
    ),
]
_Params = Annotated[
    Path, typer.Option("--params", metavar="FILE", help="The parameter file to read.")
]


def main() -> None:
    """Run the command line; errors end in a message on stderr and an exit code.

    Exit codes: 2 for parameters that are not usable, 1 for every other error raised on purpose,
    130 for an interruption and 143 for a request to terminate.

    Raises:
        OSError: Of a file, where no code of ours has made an error of its own of it.
    """
    listen()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("telescope_pipeline").setLevel(logging.INFO)
    try:
        app()
    except TelescopeError as error:
        message = escape(presentable(str(error)))
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {message}")
        sys.exit(2 if isinstance(error, ParametersError) else 1)
    except OSError as error:
        if error.filename is not None:
            raise
        # What is said cannot be written, e.g. to a full disk; files have errors of their own.
        sys.exit(f"error: the output cannot be written: {error.strerror}")
    except Stopped as stopped:
        Console(stderr=True, soft_wrap=True).print(f"[yellow]{stopped}[/]")
        sys.exit(stopped.code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"telescope {version('telescope-lens')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=_FIRST)
def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to put the picture and its numbers.")
    ] = Path("telescope-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another task and other weights.")] = 0,
) -> None:
    """Watch a network grok, and draw it, in half a minute."""
    module = import_module("telescope_pipeline.demo")
    picture, sentences = module.demo(out, seed=seed)
    typer.echo("\n" + "\n".join([*sentences, "", f"picture: {picture}"]))


@app.command(rich_help_panel=_FIRST)
def validate(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="A parameter file.")] = _DEFAULT,
    stamp: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file to write if there is no problem, for DVC."),
    ] = None,
) -> None:
    """Check the parameters and the code they name."""
    from telescope_pipeline.parameters import load_parameters
    from telescope_pipeline.parameters.user_code import check_user_code
    from telescope_pipeline.publish.options import check_tracking
    from telescope_pipeline.wiring import check

    parameters = load_parameters(file)
    check_tracking(parameters.tracking)
    check_user_code(file, parameters, list(parameters.cases), ("prepare", "train"))
    check(file, parameters.cases)
    if stamp is not None:
        from telescope_pipeline.store import files

        files.write_text(stamp, "The parameters and the code they name are usable.\n")
    count = len(parameters.cases)
    typer.echo(f"{file}: valid, {count} case{'s' if count != 1 else ''}")


def _stage(name: str, what: str) -> None:
    """Add the command that runs a stage of one case."""

    def command(case: _CaseName, params: _Params = _DEFAULT) -> None:
        from telescope_pipeline.parameters import case_of, load_parameters
        from telescope_pipeline.parameters.user_code import check_user_code

        # Before the stage imports anything heavy, so that a bad file is refused at once.
        parameters = load_parameters(params)
        case_of(parameters, case)
        check_user_code(params, parameters, [case], (name,))
        if name == "prepare":
            from telescope_pipeline.wiring import check

            check(params, parameters.cases)
        if name == "train":
            from telescope_pipeline import estimates

            found = estimates.estimate(case, params)
            typer.echo(f"train {estimates.sentence(found, parameters.run)}", err=True)
        import_module(f"telescope_pipeline.stages.{name}").run(case, params)

    app.command(name, help=what, rich_help_panel=_STAGES)(command)


_stage("prepare", "Make the data of a case.")
_stage("train", "Train a case with the lens attached.")
_stage("metrics", "Sum up a case and evaluate its claims.")
_stage("plot", "Draw the figures of a case.")
_stage("publish", "Send the results of a case to the tracker.")


@app.command(rich_help_panel=_STAGES)
def report(
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Write a report at Weights & Biases instead.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write results/comparison.html, compared with the results of another checkout.",
        ),
    ] = None,
    params: _Params = _DEFAULT,
) -> None:
    """Write the report about all cases, here or at Weights & Biases."""
    from telescope_pipeline.parameters import load_parameters
    from telescope_pipeline.wiring import check

    module = import_module("telescope_pipeline.stages.report")
    if wandb and against:
        raise typer.BadParameter("--wandb compares by itself; leave out --against")
    if wandb:
        typer.echo(module.run_wandb(params))
    elif against:
        typer.echo(module.run_against(params, against))
    else:
        check(params, load_parameters(params).cases)
        module.run(params)


@app.command(rich_help_panel=_THEN, short_help="Send runs that were kept offline.")
def sync(
    cases: Annotated[
        list[str] | None, typer.Argument(metavar="[CASE]...", help="Cases; all if none is named.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Send runs of earlier results that still wait, too.")
    ] = False,
    params: _Params = _DEFAULT,
) -> None:
    """Send the runs that were kept offline to Weights & Biases, and check that they arrived.

    Safe to repeat: what the server holds is not sent again.  The exit code is 1 while anything is
    still to be sent.
    """  # noqa: DOC501  # shown as help
    from telescope_pipeline.parameters import case_of, load_parameters
    from telescope_pipeline.progress import spinner
    from telescope_pipeline.publish.sync import show, sync
    from telescope_pipeline.store.folders import Layout

    parameters = load_parameters(params)
    for name in cases or ():
        case_of(parameters, name)
    with spinner("sync: sending runs and reading them back"):
        sent = sync(Layout.beside(params), cases or list(parameters.cases), everything=everything)
    show(sent)
    if any(run.state != "online" for run in sent):
        raise typer.Exit(1)


@app.command(rich_help_panel=_THEN)
def trial(
    case: _CaseName,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LEAF=VALUE]...", help="What is other, e.g. training.epochs=5."),
    ] = None,
    params: _Params = _DEFAULT,
) -> None:
    """Try a case with other settings, e.g. for a sweep."""
    from telescope_pipeline.trial import run

    for name, value in run(case, changes or (), params).items():
        typer.echo(f"{name}: {value}")


@app.command(rich_help_panel=_FIRST)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the project.")],
    scm: Annotated[
        bool, typer.Option(help="Make git and DVC repositories where there are none.")
    ] = True,
) -> None:
    """Write a small project for a model of your own."""
    from telescope_pipeline.scaffold import create

    for path in create(folder, scm=scm):
        typer.echo(path)
    typer.echo(f"now: cd {folder} && {'' if scm else 'dvc init && '}dvc repro")


@app.command(rich_help_panel=_THEN)
def wire(params: _Params = _DEFAULT) -> None:
    """Write dvc.yaml anew from the parameters."""
    from telescope_pipeline.wiring import rewrite

    path = params.parent / "dvc.yaml"
    changed = rewrite(params.parent)
    typer.echo(f"{path}: {'rewritten' if changed else 'as it should be'}")


@app.command(rich_help_panel=_THEN, short_help="Show what training took.")
def cost(params: _Params = _DEFAULT) -> None:
    """Show how many processor seconds the members of each case took when they were trained."""
    from telescope_pipeline.cost import lines

    for line in lines(params):
        typer.echo(line)


@app.command(rich_help_panel=_FIRST)
def estimate(params: _Params = _DEFAULT) -> None:
    """Say how long training will take, case by case."""
    from telescope_pipeline.estimates import estimates

    for line in estimates(params):
        typer.echo(line)


@app.command(rich_help_panel=_FIRST)
def doctor(params: _Params = _DEFAULT) -> None:
    """Say what is missing on this machine."""
    from telescope_pipeline.doctor import examine, show

    findings = examine(params)
    show(findings)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
