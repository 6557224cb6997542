"""YAML in, checked stages out. The only file that knows YAML.

YAML 1.2, so that `no` is Norwegian and not false. A configuration is wrong in one clear line with its place, its value
and the likely meaning, before anything runs.
"""

import difflib
import importlib
import importlib.util
import inspect
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline import project
from pipeline.marks import Limits
from pipeline.stage import Barrier, Sink, Source, Stage

_LARGEST = 1_000_000  # bytes of a configuration file
_MOST_VALUES = 20_000
_DEEPEST = 100

Step = Source | Stage | Barrier | Sink
Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """What is wrong with a configuration, said to its author: one line a mistake."""


class NamedStep(NamedTuple):
    """A stage under the name it has in the configuration."""

    name: str
    step: Step


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Settings(BaseModel):
    """The top level of a configuration file, before its stages are looked up."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="Names the run directory: runs/<name>.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    workers: int | None = Field(
        None,
        ge=0,
        description="0: in one process, without Ray; N: Ray with N workers; omitted: as many as there are cores.",
    )
    incremental: bool = Field(
        False,
        description="Take in only files not taken in before, as an increment of their own: what a scheduler starts.",
    )
    alarm_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Raise an alarm where a stage drops more than this share of the documents for one reason. If "
        "omitted, each stage has its own limit, mostly 0.9.",
    )
    document_seconds: float = Field(
        60.0,
        gt=0,
        description="A document may take this long in one stage, and document_seconds_per_mb more for its length; else "
        "it is dropped as timed_out_<stage>.",
    )
    document_seconds_per_mb: float = Field(
        10.0, ge=0, description="Seconds more for each million bytes of a document's text."
    )
    max_failed_fraction: float = Field(
        0.001,
        ge=0,
        le=1,
        description="Documents that a stage may fail on, of those that enter it; beyond it the run exits 1, though the "
        "corpus is written, and the next start tries them again.",
    )
    stages_path: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        [],
        description="Folders with stages of your own, a file each. A relative path starts from this file's folder.",
        json_schema_extra={"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]},
    )
    stages: list[Any] = Field(min_length=1, description="The stages in the order they work, one mapping each.")


class Config(NamedTuple):
    """A checked configuration."""

    name: str
    workers: int | None
    steps: tuple[NamedStep, ...]
    incremental: bool = False
    alarm_share: float | None = None
    limits: Limits = Limits()
    max_failed_fraction: float = 0.001
    stages_path: tuple[str, ...] = ()


def load(path: Path, overrides: list[str] | None = None, own: list[Path] | None = None) -> Config:
    """Read and check a configuration file; `overrides` are "stage.key=value" with the value in YAML.

    `own` are folders with a project's own stages, beside those that the file names. Where there is no file at a
    relative path, the one of that name that comes with the package is read. Raises `ConfigError` with every mistake
    found, one line each.
    """
    path = project.shipped(path)
    raw = _parse(path)
    if project.is_shipped(path):
        raw = _with_shipped_files(raw)
    for override in overrides or []:
        _override(raw, override)
    return check(raw, str(path), path.parent, own)


def _with_shipped_files(value: Any) -> Any:
    """A configuration that comes with the package, whose files are those beside it where there are none here.

    Changes lists and mappings in place, since they know their lines.
    """
    if isinstance(value, str) and "/" in value:
        return str(project.shipped(Path(value)))
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _with_shipped_files(item)
    return value


def load_as(model: type[Model], path: Path, overrides: list[str] | None = None) -> Model:
    """Read a file of another kind than a run's, as the trainer's; `overrides` are "part.key=value".

    Raises `ConfigError` with every mistake found, one line each.
    """
    path = project.shipped(path)
    raw = _parse(path)
    for override in overrides or []:
        target, equals, text = override.partition("=")
        *parts, key = target.strip().split(".")
        if not equals or not key:
            raise ConfigError(f"--set {override}: expected part.key=value")
        here = raw
        for part in parts:
            if not isinstance(here.get(part), dict):
                here[part] = {}
            here = here[part]
        here[key] = _read(text, f"--set {override}")
    try:
        return model.model_validate(_plain(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, str(path), "", model, raw))) from None


def check(raw: Any, where: str, home: Path = Path(), own: list[Path] | None = None) -> Config:
    """Check a configuration given as plain Python data; `where` names it in messages.

    A relative path in `stages_path` starts from `home`. `own` are more folders with a project's own stages.
    """
    try:
        settings = Settings.model_validate(_plain(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, where, "", Settings, raw))) from None
    mistakes: list[str] = []
    folders = [home / name for name in settings.stages_path] + (own or [])
    try:
        for folder in folders:
            project.use(folder)
    except project.Blocked as error:
        raise ConfigError(f"{_line(where, raw, 'stages_path')}: {error}") from None
    steps = [_step(entry, f"stages[{i}]", where, raw, mistakes) for i, entry in enumerate(settings.stages)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    named = tuple(step for step in steps if step)
    limits = Limits(settings.document_seconds, settings.document_seconds_per_mb)
    return Config(
        settings.name,
        settings.workers,
        named,
        settings.incremental,
        settings.alarm_share,
        limits,
        settings.max_failed_fraction,
        tuple(dict.fromkeys(map(os.path.abspath, folders))),
    )


def changed(named: NamedStep, **fields: Any) -> NamedStep:
    """A stage with some settings replaced, checked like those of a file. Raises `ConfigError`."""
    kind = type(named.step)
    try:
        return NamedStep(named.name, kind.model_validate({**named.step.model_dump(), **fields}))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, named.name, "", kind, fields))) from None


def _step(entry: Any, place: str, where: str, raw: Any, mistakes: list[str]) -> NamedStep | None:
    entry = {entry: {}} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or len(entry) != 1:
        mistakes.append(f"{where}: {place}: expected one stage as 'name: {{settings}}', got {_short(entry)}")
        return None
    name, fields = next(iter(entry.items()))
    try:
        kind = step_class(str(name))
        if fields is not None and not isinstance(fields, dict):
            raise ConfigError(f"settings must be a mapping like {{key: value}}, got {_short(fields)}")
        return NamedStep(str(name), kind.model_validate(fields or {}))
    except ConfigError as error:
        mistakes.append(f"{_line(where, raw, place)}: {place}.{name}: {error}")
    except ValidationError as error:
        mistakes.extend(_explain(error, _line(where, raw, place), f"{place}.{name}", kind, fields))
    return None


def one_stage(stage: str, overrides: list[str]) -> NamedStep:
    """A stage alone, by its name or its file; `overrides` are "key=value". Raises `ConfigError`."""
    path = Path(stage)
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"{stage}: no such file")
        project.use(path.parent)
    name = path.stem if path.suffix == ".py" else stage
    raw: dict[str, Any] = {"stages": [{name: {}}]}
    for override in overrides:
        _override(raw, f"{name}.{override}")
    mistakes: list[str] = []
    named = _step(raw["stages"][0], "--set", stage, raw, mistakes)
    if named is None:
        raise ConfigError("\n".join(mistakes))
    return named


def step_names() -> list[str]:
    """The names a configuration can use: the files of `stages/` and of a project's folders, and entry points."""
    return project.names()


def step_class(name: str) -> type[Step]:
    """The one stage class of that name. Raises `ConfigError` for an unknown name, or where there is not exactly one."""
    if name not in step_names():
        raise ConfigError(f"there is no stage '{name}'{_meant(name, step_names())}")
    if not project.has_file(name):
        return _offered(name)
    module = _module(name)
    found = _classes(module)
    if len(found) != 1:
        raise ConfigError(f"{_file(module)} must define exactly one stage class, it has {len(found)}")
    return found[0]


def step_classes() -> Iterator[tuple[str, type[Step]]]:
    """Every stage with its name. A file of a project's folder without a stage is a part of another one."""
    for name in step_names():
        if project.has_file(name):
            module = _module(name)
            if project.is_own(Path(module.__file__ or "")) and not _classes(module):
                continue
        yield name, step_class(name)


def _module(name: str) -> ModuleType:
    """The file of a stage. Raises `ConfigError` where it is of a project's own and cannot be imported."""
    try:
        return importlib.import_module(f"stages.{name}")
    except Exception as error:
        spec = importlib.util.find_spec(f"stages.{name}")
        if spec is None or not project.is_own(Path(spec.origin or "")):
            raise
        raise ConfigError(f"{spec.origin} cannot be imported: {type(error).__name__}: {error}") from error


def _file(module: ModuleType) -> str:
    path = Path(module.__file__ or module.__name__)
    return str(path) if project.is_own(path) else f"stages/{path.name}"


def _classes(module: ModuleType) -> list[type[Step]]:
    """The stages that a module defines itself."""
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, (Source, Stage, Barrier, Sink))
        and member.__module__ == module.__name__
        and not inspect.isabstract(member)
    ]


def _offered(name: str) -> type[Step]:
    """The stage of an installed package."""
    point = project.entry_points()[name]
    try:
        loaded = point.load()
    except Exception as error:
        raise ConfigError(f"the stage of {point.value} cannot be imported: {type(error).__name__}: {error}") from error
    found = _classes(loaded) if isinstance(loaded, ModuleType) else [loaded]
    if len(found) != 1 or not (isinstance(found[0], type) and issubclass(found[0], (Source, Stage, Barrier, Sink))):
        raise ConfigError(f"{point.value}, which is offered as stage '{name}', must be one stage class")
    return found[0]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    schema = Settings.model_json_schema()
    variants = []
    for name, kind in step_classes():
        part = kind.model_json_schema(ref_template=f"#/$defs/{name}/$defs/{{model}}")
        schema.setdefault("$defs", {})[name] = part
        reference = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}
        variants.append({"type": "object", "properties": {name: reference}, "required": [name],
                         "additionalProperties": False})  # fmt: skip
    schema["properties"]["stages"]["items"] = {"anyOf": [*variants, {"enum": [name for name, _ in step_classes()]}]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Gristmill run"
    return schema


def dump(config: Config) -> str:
    """The configuration as YAML with every default written out; loading it gives the same configuration."""
    stages_ = [{name: step.model_dump(mode="json")} for name, step in config.steps]
    data: dict[str, Any] = {"name": config.name}
    if config.workers is not None:
        data["workers"] = config.workers
    if config.incremental:
        data["incremental"] = True
    if config.alarm_share is not None:
        data["alarm_share"] = config.alarm_share
    data["document_seconds"], data["document_seconds_per_mb"] = config.limits
    data["max_failed_fraction"] = config.max_failed_fraction
    if config.stages_path:
        data["stages_path"] = list(config.stages_path)
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump({**data, "stages": stages_}, stream)
    return stream.getvalue()


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: is larger than {_LARGEST / 1e6:g} MB; a configuration file is expected")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    raw = _read(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping with 'name' and 'stages', got {_short(raw)}")
    return raw


def _read(text: str, where: str) -> Any:
    """YAML to data that knows its lines. Raises `ConfigError` with the line where one is known."""
    try:
        _check_size(text, where)
        raw = YAML(typ="rt", pure=True).load(text)
        _check_aliases(raw, where)
        return raw
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{where}: lists or mappings are nested too deep") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"{at}: not YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:  # what odd scalars make it raise
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _check_size(text: str, where: str) -> None:
    """Refuse what would keep the parser busy for minutes: very many values, or lists in lists in lists."""
    if len(re.findall(r"[,\n:]", text)) > _MOST_VALUES:
        raise ConfigError(f"{where}: has more than {_MOST_VALUES:,} values; a configuration is expected")
    depth = 0
    for bracket in re.findall(r"[\[{}\]]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise ConfigError(f"{where}: lists or mappings are nested deeper than {_DEEPEST}")


def _check_aliases(raw: Any, where: str) -> None:
    """Refuse data that aliases (`*name`) repeat to more values than any configuration has."""
    pending, count = [raw], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ConfigError(f"{where}: has more than {_MOST_VALUES:,} values, counting what its aliases repeat")
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _override(raw: Any, override: str) -> None:
    """Put one "stage.key=value" (or "workers=2") into the raw configuration."""
    target, equals, text = override.partition("=")
    keys = target.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected stage.key=value")
    value = _read(text, f"--set {override}") if text.strip() else ""
    if len(keys) == 1:
        raw[keys[0]] = value
        return
    entries = raw.get("stages") or []
    for place, entry in enumerate(entries):
        if isinstance(entry, str):
            entries[place] = {entry: {}}
    homes = [entry for entry in entries if isinstance(entry, dict) and keys[0] in entry]
    if len(homes) != 1:
        names = [str(next(iter(entry), "")) for entry in entries if isinstance(entry, dict)]
        problem = "stands there more than once" if homes else f"is not in this configuration{_meant(keys[0], names)}"
        raise ConfigError(f"--set {override}: stage '{keys[0]}' {problem}")
    here = homes[0]
    for key in keys[:-1]:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[keys[-1]] = value


def _plain(value: Any) -> Any:
    """The round-trip loader's containers and scalars as plain Python."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _line(where: str, raw: Any, place: str) -> str:
    """`where` with the line of "stages[i]" in the file, if the loader knows it."""
    index = re.search(r"stages\[(\d+)\]", place)
    try:
        return f"{where}:{raw['stages'].lc.item(int(index.group(1)))[0] + 1}" if index else where
    except (AttributeError, KeyError, TypeError):
        return where


def _explain(error: ValidationError, where: str, prefix: str, model: type[BaseModel], raw: Any) -> list[str]:
    """One line a mistake: place, what is wrong, the value, what may have been meant."""
    lines = []
    for item in error.errors(include_url=False):
        spot = ".".join(str(part) for part in item["loc"])
        place = ".".join(part for part in (prefix, spot) if part)
        last = str(item["loc"][-1]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            known = list(_nested(model, item["loc"][:-1]).model_fields)
            problem = f"unknown key (value {_short(item['input'])}){_meant(last, known)}"
        elif item["type"] == "missing":
            problem = "is missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            told = item["type"] == "value_error"
            problem = message if told else f"should {_plainly(message)}, not {_short(item['input'])}"
        lines.append(f"{where}: {place}: {problem}" if place else f"{where}: {problem}")
    return lines


def _plainly(message: str) -> str:
    """What a value should do, by pydantic's sentence, in the words of YAML."""
    message = re.sub(r"^\w+ should ", "", message)
    message = re.sub(r"a valid (dictionary|mapping)( or instance of \w+)?", "a mapping of keys to values", message)
    return re.sub(r"a valid (tuple|list|set)", "a list, as [a, b]", message)


def _nested(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the fields at `place` belong to."""
    for key in place:
        kinds = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        kind = model.model_fields[key].annotation if key in model.model_fields else None
        found = [one for one in (kind, *kinds) if inspect.isclass(one) and issubclass(one, BaseModel)]
        model = found[0] if found else model
    return model


def _meant(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean '{near[0]}'?" if near else f" (there are: {', '.join(known)})" if known else ""


def _short(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 60 else text[:57] + "..."
