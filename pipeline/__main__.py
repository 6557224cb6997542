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
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline import (
    __version__,
    browse,
    console,
    contract,
    corpus,
    difference,
    increments,
    nodes,
    page,
    project,
    reading,
    storage,
)
from pipeline import bench as benches
from pipeline import config as configs
from pipeline import plan as plans
from pipeline import report as reports
from pipeline import run as runs
from pipeline.address import NoCluster
from pipeline.engine import Engine, open_engine
from pipeline.stage import Barrier, Refused, Sink, Source, Stage
from pipeline.stopping import Stopped, stoppable
from pipeline.train import cli as trainer


class Learning(NamedTuple):
    """A command that makes what stages use: where it is, and what the list of commands says of it."""

    module: str
    line: str


LEARNING = {
    "train-classifier": Learning(
        "stages.learning.classifier",
        "Train a classifier for `classify` from good texts and others; writes a model, its card and a report.",
    ),
    "train-perplexity": Learning(
        "stages.learning.perplexity",
        "Train a character n-gram model for `perplexity`; writes the model, its card and a report.",
    ),
    "train-importance": Learning(
        "stages.learning.importance",
        "Estimate for `importance` what makes texts likelier in a target than in a corpus; writes model and card.",
    ),
    "train-tokenizer": Learning(
        "stages.learning.tokenizer",
        "Train a tokenizer on a byte-balanced sample; say what it is worth beside GPT-2, cl100k and o200k.",
    ),
}
"""Imported when they are called, since they load compilers and models: the list of commands shows `line` alone."""


class Commands(TyperGroup):
    """The commands of this file, and those of `LEARNING`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *LEARNING]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, for the list of commands; of `LEARNING` only name and line."""
        if cmd_name not in LEARNING:
            return super().get_command(ctx, cmd_name)
        return TyperCommand(cmd_name, help=LEARNING[cmd_name].line)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called."""
        if args[0] not in LEARNING:
            return super().resolve_command(ctx, args)
        return args[0], learning(args[0]), args[1:]


def learning(name: str) -> Any:
    """A command of `LEARNING`, loaded."""
    one = typer.Typer(add_completion=False)
    importlib.import_module(LEARNING[name].module).commands(one)
    return typer.main.get_command(one)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Recipe = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Override a setting.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run directory; runs/<name> if omitted.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or the name of one under runs/.")]
Own = Annotated[
    list[Path] | None, typer.Option("--stages", metavar="DIR", help="A folder with stages of your own, a file each.")
]
DEFAULT = Path("configs/tiny.yaml")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"gristmill {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None: ...


class LogFormat(str, Enum):
    """How a run says what it does."""

    text = "text"
    json = "json"


class How(NamedTuple):
    """How a run is shown and judged."""

    debug: bool  # with tracebacks
    strict: bool  # an alarm makes the exit code 1
    as_json: bool


def _configured(
    recipe: Path, settings: list[str] | None, own: list[Path] | None, workers: int | None = None
) -> configs.Config:
    config = configs.load(recipe, settings, own)
    return config if workers is None else config._replace(workers=workers)


@app.command()
def run(
    context: typer.Context,
    recipe: Recipe = DEFAULT,
    settings: Settings = None,
    own: Own = None,
    workers: Annotated[int | None, typer.Option(min=0, help="0: one, without Ray; N: Ray with N workers.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Run on the Ray cluster at this address.")] = None,
    out: Out = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where the run raises an alarm.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="json: a line of JSON for each event.")] = LogFormat.text,
) -> None:
    """Run a pipeline; run it again to continue one, or to take in what is new if it is incremental.

    For example: `run configs/tiny.yaml --workers 2 --set max_failed_fraction=0.01 --out runs/try`
    """
    config = _configured(recipe, settings, own, workers)
    folder = out or Path("runs") / config.name
    try:
        with stoppable():
            how = How(context.obj, strict, log_format is LogFormat.json)
            engine = _run(config, folder, ray_address, how)
    except Stopped as stopped:
        console.fail("stopped; the same command continues.")
        raise typer.Exit(128 + stopped.number) from None
    if config.incremental and not how.as_json:
        print(f"{folder}: {'' if engine else 'nothing new; '}the latest corpus is {corpus.latest(folder)}")


def _run(config: configs.Config, folder: Path, ray_address: str | None, how: How) -> Engine | None:
    """Every run that is due, in `folder`; returns the engine, None where there was nothing to do for one."""
    jobs = iter([(plans.make(config), folder)]) if not config.incremental else _increments(config, folder)
    engine = None
    with storage.lock(folder):
        try:
            with ExitStack() as stack:
                for plan_, home in jobs:
                    if engine is None:
                        engine = _engine(stack, config, ray_address, debug=how.debug)
                        nodes.check(plan_, folder.resolve(), engine)
                    with console.watch(how.as_json) as watch:
                        told = runs.run(plan_, home.resolve(), engine, watch)
                    good = not told["failed"] and not told["imbalances"] and not told["too_many_lost"]
                    if config.incremental:
                        told = reports.add_alarms(home, told, increments.alarms(folder, home, told))
                    if config.incremental and good:
                        increments.publish(folder, home, told)
                        page.write_overview(folder)
                    page.write_one(home)
                    _conclude(told, home, how)
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


def _conclude(told: dict[str, Any], folder: Path, how: How) -> None:
    """Show how a run ended; leave with an exit code that is not 0 if anything is wrong."""
    if how.as_json:
        console.event("end", folder=str(folder), report=told)
    else:
        console.funnel(told)
        _show_failures(told, debug=how.debug)
        console.alarms(told["alarms"])
    code = _exit_code(told)
    if code == 0 and not how.as_json:
        _show_corpus(told, folder)
    if code == 0 and how.strict and told["alarms"]:
        console.fail(f"{len(told['alarms'])} alarms, and --strict is set")
        code = 1
    if code:
        raise typer.Exit(code)


def _refused(told: dict[str, Any]) -> bool:
    """Whether all that failed is an infeasible request: the same command would fail again."""
    return bool(told["failed"]) and all(failure["refused"] for failure in told["failed"])


def _exit_code(told: dict[str, Any]) -> int:
    """1 if anything failed, is missing or does not balance; 2 if the request is infeasible; else 0."""
    if told["imbalances"] or told["too_many_lost"]:
        return 1
    return (2 if _refused(told) else 1) if told["failed"] else 0


def _show_failures(told: dict[str, Any], *, debug: bool) -> None:
    for failure in told["failed"]:
        console.fail(f"failed: {failure['message']}")
        if debug:
            console.fail(failure["details"])
    for imbalance in told["imbalances"]:
        console.fail(f"does not balance: {imbalance}")
    if told["failed"]:
        console.fail(f"{told['missing']}; what they and later stages would add is missing from the figures above.")
        then = "with another configuration continues" if _refused(told) else "tries again what failed"
        console.fail(f"what is done stays done; the same command {then}.")
    if told["too_many_lost"]:
        console.fail(
            f"stages failed on {told['given_up']:,} documents, a larger fraction than max_failed_fraction allows; the "
            f"same command tries them again, a higher max_failed_fraction goes on without them."
        )


def _show_corpus(told: dict[str, Any], folder: Path) -> None:
    made = told["corpus"]
    if made:
        if "mix" in made:
            console.exhausted(made["mix"])
        print(f"{made['documents']:,} documents, {made['tokens']:,} tokens ({made['dtype']}), {made['shards']} shards")
    print(f"{folder}: done, {told['tasks_run']} tasks run" + ("" if told["tasks_run"] else ", nothing to do"))


@app.command()
def plan(recipe: Recipe = DEFAULT, settings: Settings = None, own: Own = None, out: Out = None) -> None:
    """Show the groups a configuration comes to, and what of them is done already.

    For example: `plan configs/tiny.yaml --out runs/try`
    """
    config = _configured(recipe, settings, own)
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
    """Show how far a run is.

    For example: `status tiny --json`
    """
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
    """Read some documents of a run: survivors, or those dropped for a reason.

    For example: `show tiny --rejected duplicate_near -n 3`
    """
    rows = browse.documents(reading.run_folder(run_), stage, rejected, count)
    for row in rows:
        console.document(row, row.get("text") or "", browse.figures(row))


@app.command()
def explain(run_: RunArg, document: Annotated[str, typer.Argument(help="Its id, url, or own identifier.")]) -> None:
    """Tell the whole story of one document.

    For example: `explain tiny http://noise.example/missing.html`
    """
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
    """Check a finished run or a corpus: sizes, checksums, counts, token ids, and of a run its ledger.

    For example: `verify runs/tiny`
    """
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
    """Write the page of a run anew and tell where it is: `report.html` in its directory.

    For example: `report tiny`
    """
    for written in page.write(reading.run_folder(run_)):
        print(written)


@app.command()
def clean(
    run_: RunArg,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove the groups of earlier configurations. They are kept so that going back to one costs nothing.

    For example: `clean tiny --yes`
    """
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
def schema(own: Own = None) -> None:
    """Print the JSON Schema of a configuration file, with stages of your own if their folder is given.

    For example: `schema --stages mystages > schema.json`
    """
    _use(own)
    print(json.dumps(configs.json_schema(), indent=1, ensure_ascii=False))


def _use(own: list[Path] | None) -> None:
    for folder in own or []:
        project.use(folder)


@app.command()
def stages(own: Own = None) -> None:
    """List the stages that a configuration can use, with one line each.

    For example: `stages --stages mystages`
    """
    _use(own)
    console.menu([(name, _kind(step), _first_line(step)) for name, step in configs.step_classes()])


def _kind(step: type) -> str:
    return next(kind.__name__.lower() for kind in (Source, Stage, Barrier, Sink) if issubclass(step, kind))


def _first_line(step: type) -> str:
    return (step.__doc__ or "").strip().partition("\n")[0]


@app.command("check-stage")
def check_stage(
    stage: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A file with a stage, or the name of a stage.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the stage.")
    ] = None,
    own: Own = None,
) -> None:
    """Test whether a stage keeps the contract: on real documents and on texts that are hard to handle.

    Exit code 1 if it does not. For example: `check-stage mystages/shouting.py --set max_upper=0.3`
    """
    _use(own)
    named = configs.one_stage(stage, settings or [])
    broken = contract.broken(named)
    for line in broken:
        console.fail(f"{named.name}: {line}")
    if broken:
        raise typer.Exit(1)
    print(f"{named.name}: keeps the contract")


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
    """Measure each stage and the whole run in CPU-seconds, with the recall of planted duplicates.

    For example: `bench --corpus texts.jsonl --mb 8`
    """
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
        project.check()
        _refuse_remote(arguments)
        app(arguments, obj=debug)
    except (configs.ConfigError, project.Blocked, reading.NotARun, corpus.NotACorpus, NoCluster, Refused) as error:
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
