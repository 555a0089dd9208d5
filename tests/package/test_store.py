"""Files that are whole or absent, artifacts that are made once, and damage that never goes unnoticed."""

import errno
import itertools
import json
import os
import shutil

import filelock
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from distill_utils import _store, settings
from distill_utils._store import DamagedFile

TENSORS = {"weight": torch.arange(6, dtype=torch.float32).view(2, 3), "step": torch.tensor(7)}
RECORD = {"key": {"seed": 0}, "name": "θ₁", "history": [0.25, 1.5]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "artifact.safetensors"
    _store.save(path, TENSORS, RECORD)
    return path


def test_what_is_saved_is_read_back_exactly(tmp_path):
    random = torch.randn(2, 3, 5, 4)
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int16, torch.bool)
    tensors = {str(dtype): (4 * random).to(dtype) for dtype in (*types, torch.uint8)}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 7), "transposed": random.transpose(1, 3)}
    tensors |= {"channels last": random.to(memory_format=torch.channels_last), "part": random[:, 1, ::2]}
    tensors |= {"not a number": torch.tensor([float("nan"), -0.0]), "parameter": torch.nn.Parameter(random)}
    _store.save(tmp_path / "a", tensors, RECORD)
    read, record = _store.load(tmp_path / "a")
    assert record == RECORD
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        torch.testing.assert_close(read[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_every_changed_byte_is_noticed(saved):
    """Header, record, checksum and numbers: no single byte can differ without a DamagedFile that names the file."""
    whole = saved.read_bytes()
    for place, mask in itertools.product(range(len(whole)), (0x01, 0x80)):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        with pytest.raises(DamagedFile, match=f"{saved} is damaged"):
            _store.load(saved)


@pytest.mark.parametrize("length", [0, 5, 100, -20, -1])
def test_a_truncated_file_is_named(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(DamagedFile, match=f"{saved} is damaged .*: delete it and run again"):
        _store.load(saved)


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "theirs")
    with pytest.raises(DamagedFile, match="theirs is damaged"):
        _store.load(tmp_path / "theirs")


# Writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved):
    before = saved.read_bytes()

    def stop_halfway():
        with _store.atomic(saved) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_write_replaces_the_old_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "deep" / "results.json"
    for value in ({"z": [1, "θ"], "a": None}, {"a": 2}):
        _store.write_json(path, value)
        assert json.loads(path.read_text(encoding="utf-8")) == value
    assert path.read_text(encoding="utf-8") == '{\n "a": 2\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_full_device_is_told_in_a_sentence(saved):
    def write():
        with _store.atomic(saved), open("/dev/full", "w") as full:
            full.write("x")

    with pytest.raises(OSError, match=f"no room on the disk for {saved}: free some space") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert _store.load(saved)[1] == RECORD
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_another_user_may_read_what_the_umask_lets_them_and_is_told_what_not(saved):
    before = os.umask(0o022)
    try:
        _store.save(saved, TENSORS, RECORD)
        assert saved.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    saved.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root may read everything
        with pytest.raises(PermissionError, match=rf"cannot read {saved} \(Permission denied\): ask its owner"):
            _store.load(saved)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_still_makes_one_process_wait(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    for _ in range(2):
        with _store.locked(tmp_path / "a.lock"):
            with pytest.raises(filelock.Timeout), _store.locked(tmp_path / "a.lock", timeout=0):
                pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize(
    "form", [OSError, lambda number, words: SafetensorError(f"I/O error: {words} (os error {number})")]
)
def test_a_folder_that_cannot_be_written_to_is_told_with_its_mend(number, form, tmp_path):
    def write():
        with _store.friendly_os_errors(tmp_path / "a"):
            raise form(number, os.strerror(number))

    mend = rf"cannot write {tmp_path}/a \({os.strerror(number)}\): make its folder writable, or choose .*DISTILL_RUNS"
    with pytest.raises(OSError, match=mend) as caught:
        write()
    assert caught.value.errno == number


def test_a_file_where_a_folder_should_be_is_told_with_its_mend(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/runs/.*DISTILL_RUNS"):
        _store.load_or_make("model", {}, make)
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/runs/results.json .*DISTILL_RUNS"):
        _store.write_json(tmp_path / "runs" / "results.json", {})


# Load or make


@pytest.fixture
def runs():
    """The folder that artifacts are kept in."""
    settings.runs_folder().mkdir(parents=True)
    return settings.runs_folder()


def make(partial):
    return TENSORS, {"history": [1.5]}


def test_an_artifact_is_made_once_and_found_again_by_its_key(tmp_path):
    made = []

    def count(partial):
        made.append(partial)
        partial.write_text("unfinished")
        return make(partial)

    key = {"seed": 1, "schedule": {"steps": 5, "lr": 0.1}, "sizes": (3, 4)}
    reordered = {"sizes": [3, 4], "schedule": {"lr": 0.1, "steps": 5}, "seed": 1}
    for asked in (key, reordered):
        tensors, record = _store.load_or_make("model", asked, count)
        assert torch.equal(tensors["weight"], TENSORS["weight"])
        assert record == {"history": [1.5]}
    assert len(made) == 1
    assert not made[0].exists()
    _store.load_or_make("model", key | {"seed": 2}, count)
    _store.load_or_make("images", key, count)
    assert len(made) == 3


def test_a_failure_leaves_no_artifact_but_its_unfinished_work():
    def fail(partial):
        partial.write_text("so far")
        raise KeyboardInterrupt

    def go_on(partial):
        assert partial.read_text() == "so far"
        return make(partial)

    with pytest.raises(KeyboardInterrupt):
        _store.load_or_make("model", {}, fail)
    assert _store.load_or_make("model", {}, go_on)[1] == {"history": [1.5]}


def test_what_a_killed_process_left_of_a_write_goes_when_the_artifact_is_made(runs):
    _store.load_or_make("model", {"seed": 0}, make)
    (path,) = runs.glob("*.safetensors")
    other = runs / ".model-0123456789abcdef.safetensors.0a1b2c3d.tmp"  # another process may be writing it now
    left = [runs / f".{path.stem}.{kind}.0a1b2c3d.tmp" for kind in ("safetensors", "partial")]
    for each in (other, *left):
        each.touch()
    path.unlink()
    _store.load_or_make("model", {"seed": 0}, make)
    assert {each.name for each in runs.iterdir()} == {path.name, f".{path.stem}.lock", other.name}


def test_what_is_there_is_loaded_without_writing_anything(runs):
    _store.load_or_make("model", {}, make)
    (runs / f".{next(runs.glob('*.safetensors')).stem}.lock").unlink()
    _store.load_or_make("model", {}, None)
    assert len(list(runs.iterdir())) == 1


def test_an_artifact_under_another_ones_name_is_refused(runs):
    for seed in (0, 1):
        _store.load_or_make("model", {"seed": seed}, make)
    first, second = sorted(runs.glob("model-*.safetensors"))
    shutil.copy(first, second)
    outcomes = []
    for seed in (0, 1):
        try:
            outcomes.append(_store.load_or_make("model", {"seed": seed}, make)[1])
        except DamagedFile as error:
            outcomes.append(str(error))
    assert {"history": [1.5]} in outcomes
    refusal = next(outcome for outcome in outcomes if isinstance(outcome, str))
    assert refusal.startswith(f"key mismatch in {second} (seed is ")


def test_a_file_without_a_key_under_an_artifacts_name_is_refused(runs):
    _store.load_or_make("model", {}, make)
    _store.save(next(runs.glob("*.safetensors")), TENSORS, {"history": []})
    with pytest.raises(DamagedFile, match="key mismatch"):
        _store.load_or_make("model", {}, make)


PROCESS = """
import sys, torch
from distill_utils import _store
def make(partial):
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    print("at work", flush=True)
    sys.stdin.readline()
    return {"value": torch.full((3,), 2.5)}, {}
print("ready", flush=True)
sys.stdin.readline()
print("asking", flush=True)
print(_store.load_or_make("model", {"seed": 3}, make)[0]["value"].tolist(), flush=True)
"""


def test_two_processes_that_want_one_artifact_make_it_once(start_python, tmp_path):
    first, second = (start_python("-c", PROCESS, tmp_path / "log") for _ in range(2))

    def go(process):
        process.stdin.write("go\n")
        process.stdin.flush()

    assert [process.stdout.readline() for process in (first, second)] == ["ready\n", "ready\n"]
    go(first)
    assert [first.stdout.readline() for _ in range(2)] == ["asking\n", "at work\n"]
    go(second)
    assert second.stdout.readline() == "asking\n"  # while the first is at work: now it must wait
    go(first)
    go(second)  # only a second maker would read this
    outputs = [process.communicate() for process in (first, second)]
    assert [out for out, _ in outputs] == ["[2.5, 2.5, 2.5]\n"] * 2, outputs
    assert (tmp_path / "log").read_text() == "made\n"


# Identities


def test_a_digest_identifies_a_value_whatever_the_order_of_its_keys():
    assert _store.digest({"a": 1, "b": [1, 2]}) == _store.digest({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1}, {"a": 1.5, "b": [1, 2]}, {"a": "1", "b": [1, 2]}, {}]
    assert len({_store.digest(value) for value in others}) == 5


def test_a_checksum_sees_names_types_shapes_and_bytes_but_no_memory_layout():
    x = torch.randn(2, 3, 5, 4)
    same = [{"x": x, "y": x + 1}, {"y": x + 1, "x": x}, {"x": x.to(memory_format=torch.channels_last), "y": x + 1}]
    assert len({_store.checksum(tensors) for tensors in same}) == 1
    changed = x.clone()
    changed[1, 2, 4, 3] = changed[1, 2, 4, 3].nextafter(torch.tensor(9.0))
    others = [{"x": x}, {"y": x}, {"x": x.double()}, {"x": x.flatten(1)}, {"x": changed}, {"x": x.view(torch.int32)}]
    assert len({_store.checksum(tensors) for tensors in others}) == 6
    assert _store.checksum({"x": x}, "record") != _store.checksum({"x": x})


# Keys


def test_the_version_of_a_kind_is_part_of_every_key(monkeypatch):
    _store.load_or_make("model", {"seed": 0}, make)
    monkeypatch.setitem(_store.VERSIONS, "model", _store.VERSIONS["model"] + 1)
    assert not _store.holds("model", {"seed": 0})
    assert _store.holds("images", {"seed": 0}) is False


def test_an_edit_of_the_source_is_provenance_and_changes_no_key(monkeypatch):
    _store.load_or_make("model", {"seed": 0}, make)
    monkeypatch.setattr(_store, "code_digest", lambda: "another")
    assert _store.load_or_make("model", {"seed": 0}, None)[1] == {"history": [1.5]}
    (path,) = (settings.runs_folder()).glob("*.safetensors")
    assert len(_store.load(path)[1]["code"]) == 16


def test_a_name_that_is_too_long_is_told_in_a_sentence(tmp_path):
    with pytest.raises(OSError, match="cannot write .*too long"):
        _store.save(tmp_path / ("é" * 200), {"a": torch.zeros(1)}, {})
