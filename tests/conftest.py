"""A workshop: a folder of its own with the shipped configurations, where tests add stages, run and kill."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gristmill", deadline=None)  # the first example compiles the kernel
settings.load_profile("gristmill")

ROOT = Path(__file__).resolve().parent.parent
UNTIMED = ("*.parquet", "*.bin", "*.idx", "manifest.json", "*tokenizer.json")
"""Output files, all of which must be the same bytes on every run; receipts and reports tell times and are left out."""

ROWS = '''
"""A document a line, a partition a file."""
from pathlib import Path

import pyarrow as pa
import xxhash

from pipeline.schema import DOCUMENT, mark
from pipeline.stage import Piece, Source, Split


class Rows(Source):
    folder: str = "in"

    def inputs(self):
        files = sorted(Path(self.folder).glob("*.txt"))
        return [Split((Piece(str(f), f.name, "rows", f.stat().st_size),)) for f in files]

    def read(self, split):
        name = split.pieces[0].source
        lines = Path(split.pieces[0].path).read_text(encoding="utf-8").splitlines()
        table = {column: pa.nulls(len(lines), kind) for column, kind in DOCUMENT.items()}
        ids = [xxhash.xxh3_128_hexdigest(f"{name} {i}".encode()) for i in range(len(lines))]
        table["id"] = pa.array(ids, pa.string())
        table["source"] = pa.array([name] * len(lines), pa.string())
        table["offset"] = pa.array(range(len(lines)), pa.int64())
        table["text"] = pa.array(lines, pa.string())
        yield mark(pa.table(table), ["blank" if not line.strip() else None for line in lines])
'''


def _as_from_a_terminal() -> None:
    """Ctrl-C is heard, also where the tests themselves run in a shell's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Workshop:
    """A folder to work in, with stages of its own beside the real ones, and what it takes to run as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "configs", folder / "configs")
        self.write("stages/__init__.py", f"__path__.append({str(ROOT / 'stages')!r})\n")
        (folder / "data_samples").symlink_to(ROOT / "data_samples")
        self.stage("rows", ROWS)

    def stage(self, name: str, source: str) -> None:
        self.write(f"stages/{name}.py", textwrap.dedent(source).lstrip())

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *args: str) -> subprocess.Popen:
        return self._start("-m", "pipeline", *args)

    def _start(self, *args: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *args],
            cwd=self.folder, env=self.environment(), text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=_as_from_a_terminal,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "COLUMNS": "160"}

    def run(self, *args: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed; the exit code must be `code`."""
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out + err

    def python(self, *args: str) -> str:
        """Run Python in the workshop and return what it printed."""
        process = self._start(*args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"{out}\n{err}"
        return out

    def checksums(self, run: str) -> dict[str, str]:
        """sha256 of every output file of a run, by its name in the run directory."""
        folder = self.folder / run
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in UNTIMED
            for path in sorted(folder.rglob(pattern))
        }

    def folder_of(self, run: str, stage: str) -> Path:
        return next((self.folder / run).glob(f"*-{stage}-*"))


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL the process and everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)
