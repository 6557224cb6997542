"""Hot loops in numba: NumPy arrays in, NumPy arrays out. No Arrow, no files of the corpus, no Ray.

Compiled code is kept in the user's cache folder under a digest of all kernel sources. Numba alone would look only at
the file a kernel stands in, and go on with stale code after an edit to a function it inlines from another one; beside
the sources it could not write on a read-only installation.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import numba
import numpy as np


def cache_folder() -> Path:
    """Where tables and compiled kernels are kept: $GRISTMILL_CACHE, or the user's cache folder."""
    chosen = os.environ.get("GRISTMILL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "gristmill"
    )
    return Path(chosen)


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _writable(folder: Path) -> Path:
    """`folder`, made if need be. Raises `OSError` where it cannot be written to: each process would compile anew."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        what = f"compiled kernels cannot be kept here ({error.strerror}); set GRISTMILL_CACHE to a writable folder"
        raise OSError(error.errno, what, str(folder)) from None


if "NUMBA_CACHE_DIR" not in os.environ:  # for this process, and for those it starts
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(_writable(cache_folder() / f"kernels-{_digest()}"))


kernel = numba.njit(cache=True, nogil=True, _nrt=False)
"""What Python calls, that fills arrays it is handed and allocates none: the only code that is cached."""

inner = numba.njit(_nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""What only kernels call and that allocates nothing. It becomes part of each kernel that calls it and is not cached for
itself, which would save nothing later, and which two processes that compile at once would do under the same name.
Without numba's run time it does not count references to the arrays it is handed; those atomic counts, a few for every
line and word, took longer than the work itself."""

inlined = numba.njit(_nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
"""The same, for what is too small to be called."""


def constant(array: np.ndarray) -> np.ndarray:
    """The same memory as a read-only array: numba compiles a kernel anew for any other kind of array."""
    view = array.view()
    view.flags.writeable = False
    return view
