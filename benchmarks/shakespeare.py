"""nanoGPT's CPU exercise by this project alone: text -> shards -> GPT -> loss on the whole validation split.

    python benchmarks/shakespeare.py TEXT [--steps 2000] [--set train.lr=3e-3] [--out DIR]

TEXT is the 1,115,394-byte tiny Shakespeare of char-rnn, which is not part of this project. Its first 90 % are learned
from, the last 10 % are held out, characters are tokens, and the size is that of nanoGPT's README: 4 layers, 4 heads,
128 wide, windows of 64 characters, 12 windows a step, 2,000 steps (1.536 M characters). nanoGPT itself reaches 1.898
nats a character on the whole split there, in 154 CPU-seconds on the machine these figures come from. Printed are the
loss and the CPU-seconds of the training process, with its start, compilation and evaluation, and those of the steps.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from pipeline import corpus

RUN = """
name: shakespeare
workers: 0
stages:
  - collect: {{paths: ["{text}/*.txt"]}}
  - tokens: {{tokenizer: "{folder}/characters.json"}}
  - shards: {{val_fraction: 0.5, seed: {seed}}}
"""

RECIPE = """
name: shakespeare-gpt
corpus: "{corpus}"
model: {{layers: 4, heads: 4, width: 128, context: 64, qk_norm: true}}
train: {{steps: {steps}, batch: 12, lr: 4.0e-3, warmup: 0.05, decay: 0.6, weight_decay: 0.1, betas: [0.9, 0.99],
        precision: bf16, log_every: 50, threads: {threads}}}
"""


def prepare(text: Path, folder: Path) -> Path:
    """The corpus of the text, its last tenth held out; made by `python -m pipeline run`."""
    whole = text.read_text(encoding="utf-8")
    parts = folder / "text"
    parts.mkdir(parents=True, exist_ok=True)
    cut = int(len(whole) * 0.9)
    (parts / "train.txt").write_text(whole[:cut], encoding="utf-8")
    (parts / "val.txt").write_text(whole[cut:], encoding="utf-8")
    vocabulary = {letter: i for i, letter in enumerate([*sorted(set(whole)), "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<|endoftext|>"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "characters.json"))
    for seed in range(100):  # documents are held out by a keyed hash: take the first key that holds out the right one
        (folder / "run.yaml").write_text(RUN.format(text=parts, folder=folder, seed=seed), encoding="utf-8")
        run = [sys.executable, "-m", "pipeline", "run", str(folder / "run.yaml"), "--out", str(folder / "run")]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        made = corpus.open(folder / "run")
        if [shard.split for shard in made.shards] == ["train", "val"] and made.text(0) == whole[:cut]:
            return made.folder
    raise SystemExit("no key holds out the last tenth")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("text", type=Path)
    asked.add_argument("--steps", type=int, default=2000)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--set", action="append", default=[], dest="settings", help="part.key=value, as for train")
    asked.add_argument("--out", type=Path, default=Path("runs/shakespeare"))
    given = asked.parse_args()
    folder = given.out.resolve()
    made = prepare(given.text, folder)
    recipe = folder / "gpt.yaml"
    recipe.write_text(RECIPE.format(corpus=made, steps=given.steps, threads=given.threads), encoding="utf-8")
    run = folder / f"gpt-{len(list(folder.glob('gpt-*'))) + 1}"
    command = [sys.executable, "-m", "pipeline", "train", str(recipe), "--out", str(run)]
    for setting in given.settings:
        command += ["--set", setting]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    marks = [entry["cpu_seconds"] for entry in entries if "loss" in entry]
    held = done["held_out"]
    print(f"{held['nats_per_byte']:.4f} nats a character over {held['bytes']:,} held-out characters; "
          f"{done['tokens']:,} characters learned from, {done['parameters']:,} parameters; {whole:.1f} CPU-s for the "
          f"whole process, {marks[-1] - marks[0]:.1f} for the steps after the first 50")  # fmt: skip


if __name__ == "__main__":
    main()
