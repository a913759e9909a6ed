"""The one way into a file of weights: its reader runs in a process of its own, bounded in memory and time.

Parsers of other packages crash, loop and allocate on files made for that. Here a crash is an error of one sentence.
`read` is the caller's side; `python -m engine.convert.reading` is the other one, which imports the reader's module and
calls its `parse(SourceFile)`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.convert.extra import missing
from engine.convert.source_file import FACTOR, FLOOR, MAX_BYTES, SourceError, SourceFile
from engine.files import NotAFileError, opened

SECONDS, BYTES_A_SECOND = 30, 2 << 20
"""Processor time of a reader: SECONDS, and one more for every so many bytes of the file."""
OWN_MEMORY = 1 << 30
"""Memory of a reader beside the file and its weights: the interpreter and the packages."""
_COPIES = 3  # of the file: its bytes, what the parser makes of them, and slack
_REASON, _RESULT, _TENSORS = 300, "result.json", "tensors"


def read(path: Path | str, *, module: str, kind: str, needs: tuple[str, str] | None = None) -> dict[str, np.ndarray]:
    """Result of `parse` of the reader `module` for the file: float32 arrays by name.

    kind: what the file should be, with its article, for errors. needs: module and package that the reader imports.
    Raises ImportError for a package that is not installed, FileNotFoundError if there is no such file, and SourceError
    for everything else.
    """
    if needs is not None and not _installed(needs[0]):
        raise missing(needs[1], f"no module named {needs[0]}")
    path = Path(path)
    with guarded(path, kind), source(path) as file, tempfile.TemporaryDirectory(prefix="cloak-convert-") as out:
        arguments = [sys.executable, "-P", "-W", "ignore", "-m", __name__, module, os.path.abspath(path), out]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(
            arguments, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, check=False
        )
        return _result(Path(out), done.returncode)


@contextlib.contextmanager
def guarded(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever is raised inside into SourceError, but for missing packages and files.

    Weights are arrays of any shape with any name: what computes with them before they are checked can raise anything.
    """
    try:
        yield
    except (ImportError, FileNotFoundError, SourceError):
        raise
    except Exception as error:
        raise SourceError(
            f"{path} is not {kind} ({reason(error)}): get it again from where it came, or choose another layout"
        ) from error


def source(path: Path) -> BinaryIO:
    """A file with weights, open for reading. Raises FileNotFoundError, and SourceError for what is no regular file."""
    try:
        return opened(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except NotAFileError as error:
        raise SourceError(f"{path} cannot be read, for {error.strerror}: name the file with the weights") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({reason(error)}): check its name and permissions") from None


def reason(error: BaseException) -> str:
    """Message of an exception, as one line of bounded length."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, KeyError):
        text = f"it has no {text}"
    elif not text or isinstance(error, MemoryError | RecursionError | IndexError | TypeError | AttributeError):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= _REASON else f"{text[:_REASON]}..."


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _result(out: Path, code: int) -> dict[str, np.ndarray]:
    result: dict[str, Any]
    try:
        result = json.loads((out / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {"failed": _ending(code)}
    if "refused" in result:
        raise SourceError(result["refused"])
    if "missing" in result:
        raise ImportError(result["missing"])
    if "failed" in result:
        raise RuntimeError(result["failed"])
    values = np.fromfile(out / _TENSORS, np.float32)
    tensors, at = {}, 0
    for name, shape in result["tensors"]:
        size = math.prod(shape)
        tensors[name] = values[at : at + size].reshape(shape)
        at += size
    return tensors


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "reading it takes too long"
    if code < 0:
        return f"its reader was ended by {signal.Signals(-code).name}"
    return f"its reader ended with code {code}"


# --- in the reader's process --------------------------------------------------------------------------------------


def _main(module: str, path: str, out: str) -> None:
    result: dict[str, Any]
    try:
        file = SourceFile(Path(path), sys.stdin.buffer, grow=_Limits().grow)
        tensors = importlib.import_module(module).parse(file)
        result = {"tensors": _write(tensors, Path(out) / _TENSORS, file)}
    except SourceError as error:
        result = {"refused": str(error)}
    except ImportError as error:
        result = {"missing": str(error)}
    except MemoryError:
        result = {"failed": "reading it takes too much memory"}
    except BaseException as error:  # a parser's panic need not be an Exception
        result = {"failed": reason(error)}
    (Path(out) / _RESULT).write_text(json.dumps(result), encoding="utf-8")


def _write(tensors: Mapping[str, np.ndarray], path: Path, file: SourceFile) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays one after another; returns their names and shapes. One array may be there under many names."""
    file.check(sum(value.size * 4 for value in tensors.values()), "all its tensors")
    with path.open("wb") as stream:
        for value in tensors.values():
            stream.write(np.ascontiguousarray(value, np.float32).data)
    return [(name, value.shape) for name, value in tensors.items()]


class _Limits:
    """The process's bounds, which grow with every file that is opened."""

    def __init__(self) -> None:
        self.size = 0
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def grow(self, size: int) -> None:
        self.size += size
        weights = min(MAX_BYTES, FLOOR + FACTOR * self.size)
        _bound(resource.RLIMIT_DATA, OWN_MEMORY + _COPIES * self.size + weights)
        _bound(resource.RLIMIT_CPU, SECONDS + self.size // BYTES_A_SECOND)


def _bound(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know all of them
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    _main(*sys.argv[1:])
