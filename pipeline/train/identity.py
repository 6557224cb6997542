"""What the result of a training run depends on: compared before a folder is used again, and digested to name results.

A run folder holds `identity.json`, every checkpoint holds the same record in `state.json`. A run goes on only where
every field is the same, apart from those that `FREE` and `ROUNDING` list.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.corpus import MANIFEST, Corpus
from pipeline.train.recipe import Recipe, Refused, read_record

TRAINER = 1
"""Raise this number with every change of the trainer that gives other numbers from the same recipe and corpus."""

FREE = {
    "name": "a label",
    "corpus": "a path; the checksum of manifest.json stands for the content",
    "train.log_every": "how often a line is logged",
    "train.eval_every": "how often the held-out loss is measured",
    "train.save_every": "how often a checkpoint is written",
    "train.keep": "how many checkpoints stay",
    "train.spike": "which losses are traced",
    "train.tensorboard": "a second log",
}
"""Recipe keys that no figure of a run depends on, and what they are."""

ROUNDING = {
    "train.threads": "threads on the CPU",
    "train.micro_batch": "windows a process takes at once",
    "train.recompute": "memory against time",
    "train.compile": "compiled or eager",
    "train.parallel": "DDP or FSDP",
    "train.device": "CPU or GPU, as long as the precision is the same",
}
"""Recipe keys that change a run by rounding only: `train` lets them change, `compare` runs anew."""

STEPS = "train.steps"
"""The one key that may change in one direction: upwards, and not with a mixture, whose order depends on it."""

_FILE = "identity.json"
_ABSENT = "not recorded"
_MANIFEST = "corpus manifest"


class Change(NamedTuple):
    """A field in which two identities differ."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field} was {_brief(self.old)} and is now {_brief(self.new)}"


class Identity(NamedTuple):
    """Everything that the numbers of a run depend on: dotted recipe keys, and what the corpus and the code add."""

    fields: dict[str, Any]

    @property
    def digest(self) -> str:
        """The SHA-256 of all fields, in hexadecimal."""
        return storage.digest(self.fields)

    @property
    def corpus(self) -> str:
        """The sha256 of the corpus's manifest.json."""
        return self.fields[_MANIFEST]

    def changes(self, now: "Identity") -> list[Change]:
        """The fields that keep a run with this identity from going on as `now`."""
        names = sorted(self.fields.keys() | now.fields.keys())
        found = [Change(name, self.fields.get(name, _ABSENT), now.fields.get(name, _ABSENT)) for name in names]
        return [change for change in found if change.old != change.new and not self._may_grow(change)]

    def _may_grow(self, change: Change) -> bool:
        grows = change.field == STEPS and _ABSENT not in change and change.new > change.old
        return grows and self.fields.get("data.mix") is None


class Record(NamedTuple):
    """The content of `identity.json`."""

    identity: Identity
    corpus_folder: Path  # of the newest part of the corpus, as it was opened


def fingerprint(opened: Corpus) -> str:
    """The sha256 of manifest.json, which holds the checksum of every file and of the parent's manifest."""
    return storage.sha256(opened.folder / MANIFEST)


def of(recipe: Recipe, opened: Corpus, precision: str) -> Identity:
    """The identity of a run on a corpus; `precision` is what the recipe's `auto` means on this machine."""
    fields = _flat(recipe.model_dump(mode="json"))
    for name in (*FREE, *ROUNDING):
        del fields[name]
    fields |= {"model.kv_heads": recipe.model.groups, "model.hidden": recipe.model.inner, "train.precision": precision}
    if recipe.train.optimizer == "adamw":
        del fields["train.muon_lr"]
    added = {_MANIFEST: fingerprint(opened), "vocabulary": opened.manifest["vocab_size"], "trainer version": TRAINER}
    return Identity(fields | added)


def exact(one: Identity, recipe: Recipe, *machine: str) -> str:
    """A digest of the identity and of all that changes a run by rounding; `machine` names the software and the device.

    Two runs with one such digest give the same figures, so that those of the first are those of the second.
    """
    fields = _flat(recipe.model_dump(mode="json"))
    return storage.digest([one.fields, {name: fields[name] for name in ROUNDING}, *machine])


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Two levels of keys joined by dots; what lies deeper, as a mixture, stays one value."""
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def write(folder: Path, record: Record) -> None:
    storage.write_json(folder / _FILE, {"digest": record.identity.digest, "fields": record.identity.fields,
                                        "corpus_folder": str(record.corpus_folder)})  # fmt: skip


def read(folder: Path) -> Record | None:
    """The record of a run folder; None where there is none. Raises `Refused` where it is damaged."""
    raw = read_record(folder / _FILE, "fields", "corpus_folder")
    return None if raw is None else Record(Identity(raw["fields"]), Path(raw["corpus_folder"]))


def refuse_changes(where: Path, old: Identity, now: Identity) -> None:
    """Raise `Refused` where a run with the identity `old` cannot go on as `now`; the message names every field."""
    if not (changes := old.changes(now)):
        return
    notes = ""
    if any(change.field == STEPS for change in changes):
        notes = " (train.steps may only grow, and with data.mix it may not change)"
    raise Refused(f"{where} is of another recipe: {'; '.join(map(str, changes))}{notes}; "
                  "give another --out, or remove the folder of the run first")  # fmt: skip


def _brief(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
