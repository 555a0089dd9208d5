"""Files that are whole or absent: tensors and their JSON record in one safetensors file, written atomically.

load_or_make is the series' load-or-train: what was made once is found again by the hash of everything that shaped
it, in any notebook and any process; two that want the same thing at once make it once. Nothing is ever unpickled.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, SoftFileLock
from torch import Tensor

from distill_utils import settings

# The kinds of artifact. Raise a number when an edit changes what is inside that kind: stored ones are then made anew.
# An edit of words alone raises nothing. tests/package/test_versions.py says which number an edit calls for.
VERSIONS = {"images": 1, "photographs": 1, "logits": 1, "model": 1, "maps": 1, "cart": 1, "language": 1}


class DamagedFile(RuntimeError):
    """A file of ours is not what was written: cut short, changed, or another's. The message names it."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds, and is removed when it fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with friendly_os_errors(path):
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
def friendly_os_errors(path: Path) -> Iterator[None]:
    """Turn the system's error about a full disk or a read-only folder into one sentence about `path`."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        within = re.search(r"\(os error (\d+)\)", str(error))  # how safetensors reports it
        number = int(within[1]) if within else getattr(error, "errno", None) or 0
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.ENOSPC, f"no room on the disk for {path}: free some space and run again") from error
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)
        if number in refused or within:
            cure = "make its folder writable, or choose others with DISTILL_RUNS and DISTILL_BUILD"
            raise OSError(number, f"cannot write {path} ({os.strerror(number)}): {cure}") from error
        raise


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`, which a killed process releases. timeout: seconds (then filelock.Timeout) or -1.

    Where the file system has no locks, the lock is a second file that exists as long as it is held.
    """
    with friendly_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(path).acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            held = SoftFileLock(path.with_name(f"{path.name}.held")).acquire(timeout=timeout)
    with held:
        yield


def write_json(path: Path, value) -> None:
    """Write JSON atomically, indented, keys in the order given. Raises ValueError for what JSON cannot hold."""
    text = _json(value, indent=1, ensure_ascii=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, *, cure: str = "delete it and run again"):
    """Read JSON. Raises DamagedFile, with the cure, where it cannot be parsed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({error}): {cure}") from error


def save(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    """Write tensors and a JSON-able record into one checksummed safetensors file, atomically."""
    # A copy of each: safetensors refuses tensors that share their memory, as two rows of one tensor do.
    tensors = {name: _as_cpu_tensor(name, tensor).clone() for name, tensor in tensors.items()}
    text = _json(record, sort_keys=True)
    metadata = {"record": text, "sha256": checksum(tensors, text)}
    with atomic(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))  # save_file would deny others to read it


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what save wrote. Raises DamagedFile unless everything is as written, PermissionError where denied."""
    try:
        open(path, "rb").close()  # safetensors reports a file that it may not read as missing
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        cure = "ask its owner for permission to read it, or choose another folder with DISTILL_RUNS"
        raise PermissionError(errno.EACCES, f"cannot read {path} (Permission denied): {cure}") from error
    except safetensors.SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}): delete it and run again") from error
    if "record" not in metadata or checksum(tensors, metadata["record"]) != metadata.get("sha256"):
        raise DamagedFile(f"{path} is damaged (its checksum differs): delete it and run again")
    return tensors, json.loads(metadata["record"])


def checksum(tensors: dict[str, Tensor], text: str = "") -> str:
    """SHA-256 of the tensors' names, types, shapes and bytes: two networks with one state have one checksum."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = _as_cpu_tensor(name, tensors[name])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _as_cpu_tensor(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    return value.detach().cpu().contiguous()


def load_or_make(kind: str, key: dict, make: Callable[[Path], tuple[dict, dict]], *,
                 prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """Load the artifact of this key from the folder of runs, or make and keep it.

    kind: a key of VERSIONS; key: JSON-able, everything that shapes the artifact; make(partial): returns (tensors,
    record); it may leave unfinished work at the path `partial`, which is removed once the artifact is whole; prefix:
    of the file's name (default: the kind). If another process is making the same artifact, waits for its result.
    The file also says which code made it, for provenance: an edit does not change the key.
    Raises DamagedFile for a file whose key does not match its name.
    """
    folder, key = settings.runs_folder(), _versioned(kind, key)
    name = f"{prefix or kind}-{digest(key)}"
    path, partial = folder / f"{name}.safetensors", folder / f"{name}.partial"
    if not path.exists():
        with locked(folder / f".{name}.lock"):
            if not path.exists():
                for left in folder.glob(f".{name}.*.tmp"):  # by a process that was killed while it wrote
                    left.unlink()
                tensors, record = make(partial)
                save(path, tensors, {"key": key, "code": code_digest(), **record})
                partial.unlink(missing_ok=True)
    tensors, record = load(path)
    found, _ = record.pop("key", None), record.pop("code", None)
    if found != key:
        raise DamagedFile(f"key mismatch in {path} ({describe_difference(key, found)}): delete it and run again")
    return tensors, record


def holds(kind: str, key: dict, *, prefix: str = "") -> bool:
    """Whether load_or_make would find this artifact."""
    return (settings.runs_folder() / f"{prefix or kind}-{digest(_versioned(kind, key))}.safetensors").exists()


def _versioned(kind: str, key: dict) -> dict:
    return json.loads(_json(key | {"version": VERSIONS[kind]}))


def describe_difference(expected: dict, found: dict | None) -> str:
    """In words, what two records differ in: "schedule.steps is 200, not 100; …"."""
    expected, found = _flat(expected), _flat(found or {})
    names = [name for name in {**expected, **found} if expected.get(name, "absent") != found.get(name, "absent")]
    return "; ".join(f"{name} is {found.get(name, 'absent')}, not {expected.get(name, 'absent')}" for name in names)


def _flat(record: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if value and isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def digest(key: dict | list) -> str:
    """Sixteen hexadecimal digits that identify a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(_json(key, sort_keys=True).encode()).hexdigest()[:16]


def _json(value, **options) -> str:
    try:
        return json.dumps(value, allow_nan=False, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not JSON-serialisable ({error}): {value!r:.200}") from error


@functools.cache
def code_digest() -> str:
    """A digest of the package's source: provenance of an artifact or a result, never part of a key."""
    package = Path(__file__).parent
    sources = {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    return digest(sources)
