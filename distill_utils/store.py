"""Files that are whole or absent: tensors and their JSON record in one safetensors file, written atomically.

load_or_make is the series' load-or-train: what was made once is found again by the hash of everything that shaped
it, in any notebook and any process; two that want the same thing at once make it once. Nothing is ever unpickled.
"""

import ast
import contextlib
import errno
import functools
import hashlib
import importlib.util
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor

from distill_utils import settings

_FILE_NAME = re.compile(r"[\w-][\w.-]*")


class DamagedFile(RuntimeError):
    """A file of ours is not what was written: cut short, changed, or another's. The message names it."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and vanishes when it does not.

    Raises OSError with a plain sentence when the disk is full or the folder cannot be written to; ValueError for a
    path that names no file.
    """
    path = Path(path)
    if not path.name or "\0" in str(path):
        raise ValueError(f"{str(path)!r} names no file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with plainly(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # or it would hide the error that brought us here
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def plainly(path: Path) -> Iterator[None]:
    """What the system says of a full disk or of a folder that cannot be written to, in a sentence about `path`."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        within = re.search(r"\(os error (\d+)\)", str(error))  # how safetensors tells it
        number = int(within[1]) if within else getattr(error, "errno", None) or 0
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.ENOSPC, f"no room on the disk for {path}: free some space and run again") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            mend = "make its folder writable, or choose others with DISTILL_RUNS and DISTILL_BUILD"
            raise OSError(number, f"cannot write {path} ({os.strerror(number)}): {mend}") from error
        if within:
            raise OSError(number, f"cannot write {path} ({os.strerror(number)})") from error
        raise


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is made; a killed process holds none. timeout: seconds, -1 without end.

    Raises filelock.Timeout, and what atomic raises.
    """
    with plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path).acquire(timeout=timeout)
    with held:
        yield


def write_json(path: Path, value) -> None:
    """Write JSON atomically, indented, keys in the order given. Raises ValueError for what JSON cannot hold, such as
    NaN, and OSError as atomic does."""
    text = _json(value, indent=1, ensure_ascii=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, *, mend: str = "delete it and run again"):
    """Read JSON. Raises DamagedFile, which says how to mend it, where it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({error}): {mend}") from error


def save(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    """Write tensors and a JSON-able record into one checksummed safetensors file, atomically.

    Raises ValueError for a record that JSON cannot hold or a tensor that safetensors cannot, OSError as atomic does.
    """
    # A copy of each: safetensors refuses tensors that share their memory, as two rows of one tensor do.
    tensors = {name: _plain(name, tensor).clone() for name, tensor in tensors.items()}
    text = _json(record, sort_keys=True)
    metadata = {"record": text, "sha256": checksum(tensors, text)}
    with atomic(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata)


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read back what save wrote. Raises DamagedFile unless all that it holds is as written, OSError where there is no
    such file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}): delete it and run again") from error
    if "record" not in metadata or checksum(tensors, metadata["record"]) != metadata.get("sha256"):
        raise DamagedFile(f"{path} is damaged (its checksum differs): delete it and run again")
    return tensors, json.loads(metadata["record"])


def checksum(tensors: dict[str, Tensor], text: str = "") -> str:
    """SHA-256 of the tensors' names, types, shapes and bytes: two networks with one state have one checksum.
    Raises ValueError for what is no tensor."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = _plain(name, tensors[name])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is no tensor, found {type(value).__name__}")
    return value.detach().cpu().contiguous()


def load_or_make(
    kind: str, key: dict, make: Callable[[Path], tuple[dict, dict]], folder: Path | None = None
) -> tuple[dict[str, Tensor], dict]:
    """Load the artifact of this key, or make and keep it.

    kind: a word for the file's name; key: JSON-able, everything that shapes the artifact; make(partial): returns
    (tensors, record); it may leave unfinished work at the path `partial`, which is removed once the artifact is
    whole. Returns (tensors, record). A process that finds another one at work waits for its result.
    Raises DamagedFile for a file that does not hold what its name says; ValueError for a key that JSON cannot hold or
    a kind that is no plain word; what make raises; OSError where the folder cannot be written to.
    """
    folder = Path(folder or settings.runs_folder())
    key = json.loads(_json(key))
    name = _name(kind, key)
    path, partial = folder / f"{name}.safetensors", folder / f"{name}.partial"
    if not path.exists():
        with locked(folder / f".{name}.lock"):
            if not path.exists():
                for left in folder.glob(f".{name}.*.tmp"):  # by a process that was killed while it wrote
                    left.unlink()
                tensors, record = make(partial)
                save(path, tensors, {"key": key, **record})
                partial.unlink(missing_ok=True)
    tensors, record = load(path)
    found = record.pop("key", None)
    if found != key:
        raise DamagedFile(
            f"{path} holds another artifact than its name says ({differing(key, found)}): delete it and run again"
        )
    return tensors, record


def holds(kind: str, key: dict, folder: Path | None = None) -> bool:
    """Whether load_or_make would find this artifact. Raises ValueError for such a kind or key as it refuses, OSError
    where the folder cannot be looked into."""
    return (Path(folder or settings.runs_folder()) / f"{_name(kind, key)}.safetensors").exists()


def differing(expected: dict, found: dict | None) -> str:
    """In words, what two records differ in: "schedule.steps is 200, not 100; …"."""
    expected, found = _flat(expected), _flat(found or {})
    absent = "absent"  # a word, since None is a value
    pairs = {name: (found.get(name, absent), expected.get(name, absent)) for name in {**expected, **found}}
    return "; ".join(f"{name} is {is_}, not {should}" for name, (is_, should) in pairs.items() if is_ != should)


def _flat(record: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if value and isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _name(kind: str, key: dict) -> str:
    if not _FILE_NAME.fullmatch(kind):
        raise ValueError(f"the kind of an artifact begins its file's name, so it is a plain word, found {kind!r}")
    return f"{kind}-{digest(key)}"


def digest(key: dict | list) -> str:
    """Sixteen hexadecimal digits that identify a JSON-able value, whatever the order of its keys.

    Raises ValueError for what JSON cannot hold.
    """
    return hashlib.sha256(_json(key, sort_keys=True).encode()).hexdigest()[:16]


def _json(value, **options) -> str:
    try:
        return json.dumps(value, allow_nan=False, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"JSON cannot hold this ({error}): found {value!r:.200}") from error


@functools.cache
def code_version(*modules: str) -> str:
    """A digest of what these modules of the package compute: their syntax trees without docstrings or comments.
    Raises ValueError for a name that is none of its modules'."""
    trees = []
    for module in modules:
        spec = importlib.util.find_spec(f"distill_utils.{module}") if str(module).isidentifier() else None
        if spec is None:
            raise ValueError(f"{module!r} is no module of this package")
        tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False):
                node.body = node.body[1:]
        trees.append(ast.dump(tree))
    return digest(trees)
