"""The trainer's commands: train, eval, sample, trace, compare, export; torch is imported when they run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import ValidationError

from pipeline import config, console, corpus, export
from pipeline.train import identity
from pipeline.train.recipe import Recipe, Refused, read_record

RecipeArg = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe of a training run.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A training run's directory, or its name under runs/.")]
Settings = Annotated[list[str], typer.Option("--set", help="Override part.key=value (YAML).", default_factory=list)]
Out = Annotated[Path | None, typer.Option("--out", help="The run directory; runs/<name> if omitted.")]
DEFAULT = Path("configs/gpt_tiny.yaml")


def commands(app: typer.Typer) -> None:
    """Add the trainer's commands to the command line."""
    for command in (train, eval_, sample, trace, compare, export_):
        app.command(command.__name__.rstrip("_"))(command)


@contextmanager
def _told() -> Iterator[None]:
    """A refusal is the user's to mend, as a mistake in the configuration is: one sentence, exit code 2."""
    try:
        yield
    except Refused as error:
        raise config.ConfigError(str(error)) from None
    except ModuleNotFoundError as error:
        wanted = {"torch": "'gristmill[train]'", "safetensors": "'gristmill[train]'", "tensorboard": "tensorboard"}
        if error.name not in wanted:
            raise
        raise config.ConfigError(f"{error.name} is not installed: pip install {wanted[error.name]}") from None


def _folder(run: str) -> Path:
    return Path(run) if Path(run).exists() else Path("runs") / run


def _recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run, or of the run a checkpoint lies in. Raises `Refused` where it is damaged."""
    for path in (folder / "recipe.json", folder.parent / "recipe.json"):
        if (raw := read_record(path)) is not None:
            try:
                return Recipe.model_validate(raw)
            except ValidationError as error:
                wrong = error.errors()[0]
                place = ".".join(map(str, wrong["loc"]))
                raise Refused(f"{path}: is damaged or of another version, {place}: {wrong['msg']}") from None
    raise Refused(f"{folder}: no training run there")


def _learned_from(recipe: Recipe, folder: str | Path | None, fingerprint: str) -> corpus.Corpus:
    """The corpus that a run learned from: where the recipe says, or in the folder that it was opened at.

    A corpus that grows has a new newest part each time, and the run learned from an older one. Raises `Refused` where
    neither is that corpus: figures on another one would say nothing of this model.
    """
    opened = corpus.open(recipe.corpus)
    if identity.fingerprint(opened) == fingerprint:
        return opened
    if folder and (Path(folder) / corpus.MANIFEST).exists():
        opened = corpus.open(folder)
        if identity.fingerprint(opened) == fingerprint:
            return opened
    raise Refused(f"{recipe.corpus}: is not the corpus that the run learned from: its {corpus.MANIFEST} is another; "
                  "restore the corpus it learned from, or train again")  # fmt: skip


def _json(value: Any) -> str:
    """JSON for a terminal: JSON itself escapes only the control characters below 32."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.translate({code: f"\\u{code:04x}" for code in range(127, 160)})


def train(recipe: RecipeArg = DEFAULT, settings: Settings = ..., out: Out = None) -> None:  # type: ignore[assignment]
    """Pretrain a GPT on a finished corpus; the same command goes on with a run. Several ranks: start it by torchrun."""
    asked = config.load_as(Recipe, recipe, settings)
    with _told():
        from pipeline.train import loop

        folder = out or Path("runs") / asked.name
        done = loop.train(asked, corpus.open(asked.corpus), folder, console.say)
    print(f"{folder}: {done['steps']} steps, {done['tokens']:,} tokens, {done['cpu_seconds']:.0f} CPU-s")


class Trained(NamedTuple):
    """What a training run has come to."""

    model: Any
    step: int
    recipe: Recipe
    corpus: corpus.Corpus


def _trained(run: str) -> Trained:
    """The newest whole checkpoint of a run, with the corpus it learned from. Raises `Refused`."""
    from pipeline.train import checkpoint, ranks

    folder = _folder(run)
    recipe = _recipe(folder)
    ranks.use_threads(recipe.train)
    model, state = checkpoint.load(checkpoint.latest(folder, console.fail))
    own = _learned_from(recipe, state.get("corpus_folder"), state.get("fingerprint", ""))
    return Trained(model, state["step"], recipe, own)


def eval_(
    run: RunArg,
    corpus_: Annotated[Path | None, typer.Option("--corpus", help="Held-out documents of another corpus.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="A folder of minimal pairs (JSON lines, BLiMP's layout); the first 100 of a file are read."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bits per byte by source and language, the duplicate gap, regurgitation; minimal pairs."""
    with _told():
        from pipeline.train import report

        model, step, recipe, own = _trained(run)
        facts = {"step": step, **report.examined(model, recipe, own, corpus.open(corpus_) if corpus_ else own, pairs)}
    print(_json(facts) if as_json else console.visible(report.told(facts, step)))


def sample(
    run: RunArg,
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "",
    count: Annotated[int, typer.Option("-n", min=1, help="Tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token each time.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many; 0: all.")] = 50,
    seed: int = 1,
) -> None:
    """Let a model write."""
    with _told():
        from pipeline.train.model import sample as continued

        model, _, _, own = _trained(run)
    eos = own.manifest["eos_id"]
    ids = [eos, *own.tokenizer.encode(prompt, add_special_tokens=False).ids]
    made = list(continued(model, ids, count, temperature, top_k, seed, stop=eos))
    print(console.visible(own.tokenizer.decode([*ids[1:], *made], skip_special_tokens=True)))


def trace(
    run: RunArg,
    step: Annotated[int, typer.Option(min=1, help="The first step is 1.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The documents a step learned from, with the loss of each window."""
    folder = _folder(run)
    with _told():
        from pipeline.train import report

        recipe = _recipe(folder)
        if (record := identity.read(folder)) is None:
            raise Refused(f"{folder}: no identity.json there, which names the corpus of the run; train again")
        own = _learned_from(recipe, record.corpus_folder, record.identity.corpus)
        windows = report.behind(recipe, own, folder, step)
    if as_json:
        print(_json(windows))
        return
    for window in windows:
        loss = "not logged" if window["loss"] is None else f"{window['loss']:.4f}"
        print(f"sample {window['sample']}  loss {loss}  epoch {window['epoch']}")
        for part in window["documents"]:
            line = f"  {part['share']:6.1%}  {part.get('id')}  {part.get('source')}  {part.get('url') or ''}"
            console.say(line)


def compare(
    corpora: Annotated[list[str], typer.Argument(metavar="A B [C]", help="Corpora, or the runs that made them.")],
    recipe: Annotated[Path, typer.Option(help="The recipe every run follows.")] = Path("configs/gpt_compare.yaml"),
    tokens: Annotated[int, typer.Option(min=1, help="Each run learns from so many.")] = 1_000_000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each corpus, paired by seed.")] = 3,
    lrs: Annotated[str, typer.Option(help="Learning rates, as multiples of the recipe's.")] = "1,0.25",
    heldout: Annotated[Path | None, typer.Option(help="A corpus whose held-out documents judge all.")] = None,
    settings: Settings = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Where the runs and the report go.")] = Path("runs/compare"),
) -> None:
    """Which corpus is better? Equal budgets, runs paired by seed, a verdict with its confidence interval."""
    asked = config.load_as(Recipe, recipe, settings)
    with _told():
        from pipeline.train import compare as comparing

        comparing.refuse_set([setting.partition("=")[0].strip() for setting in settings])
        design = comparing.Design(tokens, tuple(range(1, seeds + 1)), _multiples(lrs))
        text = comparing.compare(asked, [_folder(name) for name in corpora], design, out, heldout, console.say)
    console.say(text)


def _multiples(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < rate < float("inf") for rate in found):
        raise config.ConfigError(f"--lrs {text}: expected numbers above 0 with commas between, as 1,0.25")
    return tuple(dict.fromkeys(found))  # a rate given twice would count each of its runs twice


def export_(
    corpus_: Annotated[str, typer.Argument(metavar="CORPUS", help="A finished corpus, or the run that made it.")],
    to: Annotated[export.Layout, typer.Option(help="Whose layout.")],
    out: Annotated[Path | None, typer.Option(help="Where to; CORPUS-<layout> if omitted.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sample, where the layout fixes it (mds).")] = 1024,
) -> None:
    """Write a corpus in another trainer's layout."""
    opened = corpus.open(_folder(corpus_))
    folder = out or opened.folder.with_name(f"{opened.folder.name}-{to.value}")
    try:
        made: list[Any] = export.export(opened, to, folder, length)
    except export.CannotExport as error:
        raise config.ConfigError(str(error)) from None
    print(f"{folder}: {len(made)} files for {to.value}")
