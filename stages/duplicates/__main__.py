"""Look into an index of kept documents, or remove some from it: `python -m stages.duplicates INDEX [--forget FILE]`."""

import argparse
import sys
from pathlib import Path

from pipeline.storage import Locked, lock
from stages.duplicates.index import Index


def main(arguments: list[str]) -> int:
    """Exit codes as everywhere: 0 done, 2 wrong input, 3 another run holds the index."""
    parser = argparse.ArgumentParser(prog="python -m stages.duplicates", description=__doc__)
    parser.add_argument("index", type=Path, help="the folder that a dedup stage names as its `index`")
    parser.add_argument("--forget", type=Path, metavar="FILE", help="ids of documents to remove, one a line")
    options = parser.parse_args(arguments)
    if not (options.index / "index.json").is_file():
        print(f"{options.index}: not an index (it has no index.json)", file=sys.stderr)
        return 2
    try:
        with lock(options.index):
            return _work(Index(options.index), options.forget)
    except Locked as error:
        print(error, file=sys.stderr)
        return 3


def _work(index: Index, forget: Path | None) -> int:
    if forget is not None:
        try:
            ids = set(forget.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            print(f"{forget}: cannot be read: {error}", file=sys.stderr)
            return 2
        print(f"forgot {index.forget(ids)} of {len(ids)} documents")
    for number, batch in enumerate(index.batches()):
        print(f"batch {number + 1}: {batch['documents']:,} documents kept, from {batch['origin']}")
    summary = index.summary()
    print(f"{summary['documents']:,} documents, revision {summary['revision']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
