"""The command line: `python -m pipeline run`, and the commands that ask a run what it did.

Exit codes: 0 done; 1 something failed or does not balance, or stages failed on more documents than
max_failed_fraction allows (the same command tries again what failed); 2 the configuration or an input is wrong, or asks
for what these documents cannot give; 3 another run holds the run directory; 130 stopped by Ctrl-C, 143 by SIGTERM, 129
by SIGHUP (the same command continues). `--debug` shows the traceback of an error and, with `--workers 0`, runs the
stages in this process, for pdb.
"""

import importlib
import json
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline import bench as benches
from pipeline import browse, console, corpus, difference, increments, nodes, page, reading, storage
from pipeline import config as configs
from pipeline import plan as plans
from pipeline import report as reports
from pipeline import run as runs
from pipeline.address import NoCluster
from pipeline.engine import Engine, open_engine
from pipeline.stage import Refused, Sink
from pipeline.stopping import Stopped, stoppable
from pipeline.train import cli as trainer

LEARNING = {
    "train-classifier": "stages.learning.classifier",
    "train-perplexity": "stages.learning.perplexity",
    "train-importance": "stages.learning.importance",
    "train-tokenizer": "stages.learning.tokenizer",
}
"""Commands that make what stages use, and the modules they are in; imported when they are called for."""


class Commands(TyperGroup):
    """The commands of this file, and those of `LEARNING`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *LEARNING]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in LEARNING:
            return super().get_command(ctx, cmd_name)
        learning = typer.Typer(add_completion=False)
        importlib.import_module(LEARNING[cmd_name]).commands(learning)
        return typer.main.get_command(learning)


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)

Recipe = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Override a setting.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run directory; runs/<name> if omitted.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or the name of one under runs/.")]
DEFAULT = Path("configs/tiny.yaml")


def _configured(recipe: Path, settings: list[str] | None, workers: int | None = None) -> configs.Config:
    config = configs.load(recipe, settings)
    return config if workers is None else config._replace(workers=workers)


@app.command()
def run(
    context: typer.Context,
    recipe: Recipe = DEFAULT,
    settings: Settings = None,
    workers: Annotated[int | None, typer.Option(min=0, help="0: one, without Ray; N: Ray with N workers.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Run on the Ray cluster at this address.")] = None,
    out: Out = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where the run raises an alarm.")] = False,
) -> None:
    """Run a pipeline; run it again to continue one, or to take in what is new if it is incremental."""
    config = _configured(recipe, settings, workers)
    folder = out or Path("runs") / config.name
    try:
        with stoppable():
            engine = _run(config, folder, ray_address, debug=context.obj, strict=strict)
    except Stopped as stopped:
        console.fail("stopped; the same command continues.")
        raise typer.Exit(128 + stopped.number) from None
    if config.incremental:
        print(f"{folder}: {'' if engine else 'nothing new; '}the latest corpus is {corpus.latest(folder)}")


def _run(config: configs.Config, folder: Path, ray_address: str | None, *, debug: bool, strict: bool) -> Engine | None:
    """Every run that is due, in `folder`; returns the engine, None where there was nothing to do for one."""
    jobs = iter([(plans.make(config), folder)]) if not config.incremental else _increments(config, folder)
    engine = None
    with storage.lock(folder):
        try:
            with ExitStack() as stack:
                for plan_, home in jobs:
                    if engine is None:
                        engine = _engine(stack, config, ray_address, debug=debug)
                        nodes.check(plan_, folder.resolve(), engine)
                    with console.watch() as watch:
                        told = runs.run(plan_, home.resolve(), engine, watch)
                    good = not told["failed"] and not told["imbalances"] and not told["too_many_lost"]
                    if config.incremental:
                        told = reports.add_alarms(home, told, increments.alarms(folder, home, told))
                    if config.incremental and good:
                        increments.publish(folder, home, told)
                        page.write_overview(folder)
                    page.write_one(home)
                    _conclude(told, home, debug=debug, strict=strict)
        finally:
            runs.sweep(folder)  # what tasks that were stopped left behind
    return engine


def _increments(config: configs.Config, folder: Path) -> Iterator[tuple[plans.Plan, Path]]:
    plans.groups(config)  # a mistake is told before the directory is made
    return increments.due(config, folder)


def _engine(stack: ExitStack, config: configs.Config, address: str | None, *, debug: bool) -> Engine:
    """Started when there is work for it; before many workers start at once, the kernels are compiled."""
    if config.workers != 0 or address:
        benches.warm_once(name for name, _ in config.steps)
    return stack.enter_context(open_engine(config.workers, address, inline=debug))


def _conclude(told: dict[str, Any], folder: Path, *, debug: bool, strict: bool) -> None:
    """Show the funnel and what is wrong with a run.

    Exit code 1 if anything is missing, or an alarm is raised and `strict` is set; 2 if the request is infeasible.
    """
    console.funnel(told)
    for failure in told["failed"]:
        console.fail(f"failed: {failure['message']}")
        if debug:
            console.fail(failure["details"])
    for imbalance in told["imbalances"]:
        console.fail(f"does not balance: {imbalance}")
    refused = bool(told["failed"]) and all(failure["refused"] for failure in told["failed"])
    if told["failed"]:
        console.fail(f"{told['missing']}; what they and later stages would add is missing from the figures above.")
        if refused:
            console.fail("what is done stays done; the same command with another configuration continues.")
        else:
            console.fail("what is done stays done; the same command tries again what failed.")
    console.alarms(told["alarms"])
    if told["too_many_lost"]:
        console.fail(
            f"stages failed on {told['given_up']:,} documents, a larger fraction than max_failed_fraction allows; the "
            f"same command tries them again, a higher max_failed_fraction goes on without them."
        )
    if told["failed"] or told["imbalances"] or told["too_many_lost"]:
        raise typer.Exit(2 if refused and not told["imbalances"] and not told["too_many_lost"] else 1)
    made = told["corpus"]
    if made:
        if "mix" in made:
            console.exhausted(made["mix"])
        print(f"{made['documents']:,} documents, {made['tokens']:,} tokens ({made['dtype']}), {made['shards']} shards")
    print(f"{folder}: done, {told['tasks_run']} tasks run" + ("" if told["tasks_run"] else ", nothing to do"))
    if strict and told["alarms"]:
        console.fail(f"{len(told['alarms'])} alarms, and --strict is set")
        raise typer.Exit(1)


@app.command()
def plan(recipe: Recipe = DEFAULT, settings: Settings = None, out: Out = None) -> None:
    """Show the groups a configuration comes to, and what of them is done already."""
    config = _configured(recipe, settings)
    folder = out or Path("runs") / config.name
    planned: plans.Plan | None
    if config.incremental:
        planned, folder = increments.upcoming(config, folder)
    else:
        planned = plans.make(config)
    if planned is None:
        print(f"{config.name}: nothing new for {folder}")
        return
    size = sum(split.size for split in planned.splits)
    files = len({piece.path for split in planned.splits for piece in split.pieces})
    print(f"{config.name}: {files} files, {size / 1e6:,.1f} MB, {len(planned.splits)} partitions -> {folder}")
    outlined = plans.outline(planned)
    console.groups(browse.progress(outlined, folder, inputs=True), columns=True)
    end = planned.groups[-1].end
    if end and isinstance(end.step, Sink) and end.step.rests:
        settled = browse.mixture(outlined, folder, end.step)
        console.mixture(settled, end.step.asked())
        if settled and "refused" in settled:
            raise typer.Exit(2)


@app.command()
def status(
    run_: RunArg,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a run is."""
    folder = reading.run_folder(run_)
    if as_json:
        print(json.dumps(browse.status(folder), indent=1, ensure_ascii=False))
        return
    held = browse.holder(folder)
    homes = reading.members(folder)
    if homes != [folder]:
        print(f"{folder}: " + (f"running ({held}); " if held else "") + f"latest {corpus.latest(folder)}")
        console.increments(browse.increment_rows(folder))
        folder = homes[-1]
    print(f"{folder}: " + (f"running ({held})" if held else browse.state(folder)))
    if begun := browse.outline(folder):
        console.groups(browse.progress(begun, folder, inputs=False), columns=False)


@app.command()
def show(
    run_: RunArg,
    stage: Annotated[str | None, typer.Option(help="Documents as they left the group of this stage.")] = None,
    rejected: Annotated[str | None, typer.Option(help="Documents dropped for this reason.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 5,
) -> None:
    """Read some documents of a run: survivors, or those dropped for a reason."""
    rows = browse.documents(reading.run_folder(run_), stage, rejected, count)
    for row in rows:
        console.document(row, row.get("text") or "", browse.figures(row))


@app.command()
def explain(run_: RunArg, document: Annotated[str, typer.Argument(help="Its id, url, or own identifier.")]) -> None:
    """Tell the whole story of one document."""
    folder = reading.run_folder(run_)
    for story in browse.stories(folder, document):
        console.document(story.row, story.text, browse.figures(story.row), width=400)
        for line in story.lines:
            console.say(line)
        if story.keeper is not None:
            console.diff(difference.places(story.keeper, story.text))


@app.command()
def verify(
    run_: Annotated[
        str, typer.Argument(metavar="RUN", help="A run directory, the name of one under runs/, or a corpus folder.")
    ],
) -> None:
    """Check a finished run or a corpus: sizes, checksums, counts, token ids, and of a run its ledger."""
    folder = browse.run_or_corpus(run_)
    wrong, said = browse.verify(folder)
    for line in said:
        console.say(line)
    for line in wrong:
        console.fail(f"wrong: {line}")
    if wrong:
        raise typer.Exit(1)
    print(f"{folder}: verified")


@app.command()
def report(run_: RunArg) -> None:
    """Write the page of a run anew and tell where it is: `report.html` in its directory."""
    for written in page.write(reading.run_folder(run_)):
        print(written)


@app.command()
def clean(
    run_: RunArg,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove the groups of earlier configurations. They are kept so that going back to one costs nothing."""
    folder = reading.run_folder(run_)
    with storage.lock(folder):
        unused = browse.unused(folder)
        for path, size in unused:
            print(f"{path}  {size / 1e6:,.1f} MB")
        if not unused:
            print(f"{folder}: every group belongs to the present configuration")
            return
        total = sum(size for _, size in unused)
        if not yes and not typer.confirm(f"Remove {len(unused)} folders, {total / 1e6:,.1f} MB?"):
            raise typer.Exit(1)
        for path, _ in unused:
            shutil.rmtree(path)
        print(f"{folder}: {total / 1e6:,.1f} MB removed")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    print(json.dumps(configs.json_schema(), indent=1, ensure_ascii=False))


@app.command()
def bench(
    recipe: Recipe = Path("configs/bench.yaml"),
    corpus_: Annotated[
        list[str] | None, typer.Option("--corpus", help="Files to measure on, as collect's paths.")
    ] = None,
    megabytes: Annotated[int, typer.Option("--mb", min=1, help="Of text to take from the corpus.")] = 32,
    repeats: Annotated[int, typer.Option("--repeat", min=0, help="Rounds; the medians are told.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure each stage and the whole run in CPU-seconds, with the recall of planted duplicates."""
    figures = benches.measure(configs.load(recipe), corpus_ or [], megabytes, repeats)
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        console.figures(figures)


@app.command()
def warmup() -> None:
    """Compile every kernel ahead of the first run, for images and before many workers start at once."""
    print(f"kernels compiled and cached in {benches.warmup():.1f} s")


trainer.commands(app)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        _refuse_remote(arguments)
        app(arguments, obj=debug)
    except (configs.ConfigError, reading.NotARun, corpus.NotACorpus, NoCluster, Refused) as error:
        _stop(str(error), 2, debug)
    except storage.Locked as error:
        _stop(str(error), 3, debug)
    except storage.Damaged as error:
        _stop(str(error), 1, debug)
    except OSError as error:
        _stop(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 1, debug)


def _refuse_remote(arguments: list[str]) -> None:
    """Raise `ConfigError` where a command should write to a URL: it would write into a local folder of that name."""
    for option, value in zip(arguments, [*arguments[1:], ""]):
        name, equals, joined = option.partition("=")
        if name == "--out":
            try:
                storage.local(joined if equals else value)
            except ValueError as error:
                raise configs.ConfigError(f"--out {error}") from None


def _stop(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    console.fail(message)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
