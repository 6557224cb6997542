"""Compressed files as a stream of plain bytes that knows where it is and says what is lost.

gzip (any number of members), zstd and lz4 (any number of frames), bz2 and xz, told by their first bytes, never by the
name. A zstd file may start with the dictionary of its frames, as the .warc.zst files of archive.org do.
Python's own file objects hide the two things that matter for dumps: where in the file a member starts, and that all
before a damage is good. Memory and time are bounded: a megabyte of input is never expanded further than a read asks
for, and a file that grows beyond all that text does when it is expanded is not read on.
"""

import bz2
import lzma
from bisect import bisect_right
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import zstandard
from isal import igzip_lib

_CHUNK = 1 << 18  # bytes read from the file at a time
_ZSTD_FEED = 1 << 12  # zstd expands all it is fed at once: 4 KB of a bomb are at most about 128 MB
_BOMB_BYTES = 32 << 20  # plain bytes that any file may come to
_BOMB_RATIO = 200  # beyond those, plain bytes for a byte of the file: text comes to 3 to 20, copies of one page to 100
_ERRORS: Any = (  # igzip_lib types its error class as an instance
    igzip_lib.IsalError,
    zstandard.ZstdError,
    lzma.LZMAError,
    OSError,  # what bz2 says; nothing below is read from a disk
    ValueError,
    EOFError,
    RuntimeError,  # what lz4 says
)
_DICTIONARY = b"\x5d\x2a\x4d\x18"  # first bytes of the skippable frame that holds a zstd dictionary
_DICTIONARY_BYTES = 1 << 26  # a bigger dictionary is not read


class Damaged(Exception):
    """The stream cannot be read on. Everything it gave before is good, as far as a damage can be noticed."""

    def __init__(self, start: int, at: int, truncated: bool) -> None:
        super().__init__(f"damaged member at byte {start}")
        self.start = start  # where in the file the damaged member starts
        self.at = at  # how far the file was read, about
        self.truncated = truncated  # the file ends within the member


class Bomb(Damaged):
    """The file expands to far more than any text does; it is not read on."""


def compression(head: bytes) -> str | None:
    """What a file that starts with `head` (10 bytes or more) is compressed with, None for nothing we know."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(b"\x04\x22\x4d\x18"):
        return "lz4"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bz2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else None


class _Zstd:
    """One zstd frame, with the methods of `bz2.BZ2Decompressor`."""

    def __init__(self, decompressor: zstandard.ZstdDecompressor | None = None) -> None:
        self._frame = (decompressor or _zstd_decompressor(None)).decompressobj()
        self._fed = b""
        self._plain = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._plain

    @property
    def needs_input(self) -> bool:
        return not self._fed and not self._plain and not self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + self._fed

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._fed += data
        if not self._plain and not self._frame.eof:
            feed, self._fed = self._fed[:_ZSTD_FEED], self._fed[_ZSTD_FEED:]
            self._plain = memoryview(self._frame.decompress(feed))
        given, self._plain = self._plain[:max_length], self._plain[max_length:]
        return bytes(given)


class _Lz4:
    """One lz4 frame, with the methods of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        import lz4.frame  # few files are of this kind: the others do not need the library

        self._frame = lz4.frame.LZ4FrameDecompressor()

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._frame.needs_input)

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data or b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return bytes(self._frame.decompress(data, max_length))


def _zstd_decompressor(dictionary: bytes | None) -> zstandard.ZstdDecompressor:
    if dictionary is None:
        return zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return zstandard.ZstdDecompressor(zstandard.ZstdCompressionDict(dictionary), max_window_size=1 << 31)


def _dictionary(file: BinaryIO) -> bytes | None:
    """The dictionary at the head of a zstd file, plain or compressed itself; None where there is none.

    The format is that of archive.org: https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    file.seek(0)
    head = file.read(8)
    size = int.from_bytes(head[4:], "little")
    if head[:4] != _DICTIONARY or size > _DICTIONARY_BYTES:
        return None
    data = file.read(size)
    if compression(data) != "zstd":
        return data or None
    try:
        return expand(data, "zstd", _DICTIONARY_BYTES)
    except ValueError:
        return None  # the frames that need it are counted as corrupt


def _member(kind: str, zstd: zstandard.ZstdDecompressor | None = None) -> Any:
    """A decompressor of one member, frame or stream, with the methods of `bz2.BZ2Decompressor`."""
    if kind == "gzip":
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if kind == "zstd":
        return _Zstd(zstd)
    if kind == "lz4":
        return _Lz4()
    return bz2.BZ2Decompressor() if kind == "bz2" else lzma.LZMADecompressor()


class Stream:
    """The plain bytes of the file at `path`, from byte `start` of the file, where a member has to start.

    `plain` says that the file is not compressed, whatever the bytes at `start` look like.
    """

    def __init__(self, path: str | Path, start: int = 0, plain: bool = False) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (closed by close)
        self.size = self._file.seek(0, 2)
        self._file.seek(start)
        self.kind = None if plain else compression(self._file.read(16))
        self._zstd = _zstd_decompressor(_dictionary(self._file)) if self.kind == "zstd" else None
        self._file.seek(start)
        self._read = start  # bytes of the file taken so far, absolute
        self._plain = 0  # plain bytes given so far
        self._starts: tuple[list[int], list[int]] = ([], [])  # members: place in the plain bytes, in the file
        if not self.kind:
            self._starts = ([0], [start])
        self._member: Any = None
        self._left = b""  # read from the file, not yet fed

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._plain

    def seek(self, offset: int, whence: int = 0) -> int:
        """Only to say that there is no seeking, to whom asks."""
        raise OSError("a stream cannot be rewound")

    def read(self, size: int = _CHUNK) -> bytes:
        """Up to `size` plain bytes (at most 256 KB), b"" at the end. Raises `Damaged` once all before it was given."""
        size = _CHUNK if size < 0 else min(size, _CHUNK)
        data = self._expand(size) if self.kind else self._file.read(size)
        self._plain += len(data)
        if self.kind and self._plain > max(_BOMB_BYTES, _BOMB_RATIO * self._read):
            raise Bomb(self._starts[1][-1], self._read, truncated=False)
        return data

    def head(self, size: int) -> tuple[bytes, Damaged | None]:
        """The next `size` plain bytes, fewer where the stream ends or is damaged; the damage, if that was it."""
        data = b""
        try:
            while len(data) < size and (chunk := self.read(size - len(data))):
                data += chunk
        except Damaged as damage:
            return data, damage
        return data, None

    def locate(self, plain: int) -> tuple[int, int]:
        """Where plain byte `plain` lies: its member's place in the file, and how far into that member's plain bytes.

        To be asked in ascending order: the members before it are forgotten.
        """
        plains, files = self._starts
        at = bisect_right(plains, plain) - 1
        if not self.kind:
            return files[0] + plain, 0
        del plains[:at], files[:at]
        return files[0], plain - plains[0]

    def member(self) -> int:
        """The place in the plain bytes where the member starts that is being read."""
        return self._starts[0][-1] if self._starts[0] else 0

    def _expand(self, size: int) -> bytes:
        while True:
            if (self._member is None or self._member.eof) and not self._next_member():
                return b""
            if self._member.needs_input and not self._left and not self._refill():
                raise Damaged(self._starts[1][-1], self.size, truncated=True)
            feed, self._left = (self._left, b"") if self._member.needs_input else (b"", self._left)
            try:
                data: bytes = self._member.decompress(feed, size)
            except _ERRORS as error:
                raise Damaged(self._starts[1][-1], self._read, truncated=False) from error
            if data:
                return data

    def _refill(self) -> bool:
        self._left = self._file.read(_CHUNK)
        self._read += len(self._left)
        return bool(self._left)

    def _next_member(self) -> bool:
        """Begin with the next member; False at the end of the file, or of all but padding with zeros."""
        if self._member is not None:
            self._left = self._member.unused_data + self._left
            self._member = None
        while not self._left.strip(b"\0"):
            if not self._refill():
                return False
        start = self._read - len(self._left)
        self._starts[0].append(self._plain)
        self._starts[1].append(start)
        self._member = _member(self.kind or "", self._zstd)
        return True


def expand(data: bytes, kind: str, limit: int) -> bytes:
    """The plain bytes of `data`, cut at `limit` + 1 bytes, so that a longer one can be told.

    `kind` is gzip, zstd, zlib or deflate (without zlib's frame). A stream that ends early gives what it has; raises
    `ValueError` where it is corrupt.
    """
    flags = {"zlib": igzip_lib.DECOMP_ZLIB, "deflate": igzip_lib.DECOMP_DEFLATE}
    member = igzip_lib.IgzipDecompressor(flag=flags[kind]) if kind in flags else _member(kind)
    found, size = [], 0
    try:
        while not member.eof and size <= limit:
            data, feed = b"", data
            found.append(member.decompress(feed, limit + 1 - size))
            size += len(found[-1])
            if member.needs_input:
                break
    except _ERRORS as error:
        raise ValueError(f"corrupt {kind} data") from error
    return b"".join(found)
