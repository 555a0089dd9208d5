"""One training run by one command: python -m distill_utils train, in one process, on a GPU, or under torchrun.

The same command goes on where a killed run was, bit for bit, and with more processes takes fewer images in each: the
batch stays what it is. Under torchrun every process must see the folder that is written to.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # before a group is there, see joined
from torch.distributed.rendezvous import rendezvous

from distill_utils import _recorded, _store, evaluation, models, recipes, settings, training
from distill_utils.augment import Augmentation
from distill_utils.recipes import Recipe, Trained
from distill_utils.training import Schedule


def train(recipe: Recipe, out: Path, *, teacher: Path | None = None, checkpoint_every: int | None = None,
          device: str | None = None, compiled: bool = False) -> Path:
    """Train the model of a recipe in a folder of its own, which it may have been begun in before.

    out: gets recipe.json at once, checkpoint.safetensors every checkpoint_every steps (default: twenty times a run)
    and model.safetensors at the end; teacher: a model.safetensors to distil (default: the recipe's own teacher, from
    the store of trained models); device: cpu or cuda (default: cuda where there is one); compiled: compile the steps.
    Prints the accuracy on validation and test and what to do next. Returns the path of the model. Raises ValueError,
    before anything is trained, where out holds another recipe's run, the teacher has other classes, the batch cannot
    be shared by the processes or there is no such device; DamagedFile for a checkpoint, model or teacher that is not
    whole.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    training.check_divisible(recipe.schedule.batch_size, processes)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU here: leave --device out")
    network = load(teacher).model if teacher else None
    image_data = recipes.dataset(recipe.dataset, recipe.data_seed)
    _recorded.check_classes(network and network.classes, image_data.classes)
    record = {"recipe": asdict(recipe), "teacher": _store.checksum(network.state_dict()) if network else None}
    record = json.loads(json.dumps(record))  # as it is read back: tuples are lists
    _reserve_output_dir(out, record)
    path, checkpoint = out / "model.safetensors", out / "checkpoint.safetensors"
    if path.exists():
        _report(path, rank)
        return path
    if recipe.teacher and not network and rank == 0:
        print("no --teacher given: the series' own is trained first, or loaded where it was trained before")
    ingredients = recipes.ingredients(recipe, teacher=network, quiet=rank > 0)
    model = recipes.untrained(recipe, quiet=rank > 0)
    with joined(device or ("cuda" if torch.cuda.is_available() else "cpu"), processes) as place:
        model.to(place)
        if compiled and _can_compile():
            model.compile()
        history = training.fit(model, checkpoint=checkpoint, checkpoint_every=checkpoint_every, **ingredients)
        if rank == 0:
            accuracy = {part: evaluation.evaluate(model, getattr(image_data, part))["accuracy"]
                        for part in ("validation", "test")}
            models.save(path, model, classes=image_data.classes, side=image_data.train.images.shape[-1],
                        **record, history=history, accuracy=accuracy)
            checkpoint.unlink()
    _report(path, rank)
    return path


def _report(path: Path, rank: int) -> None:
    """How good the model is and what to do next; printed by the first process alone."""
    if rank > 0:
        return
    accuracy = load(path).model.record["accuracy"]
    print(f"validation accuracy {100 * accuracy['validation']:.1f} %, test accuracy {100 * accuracy['test']:.1f} %")
    print(f"the model is in {path}; try python -m distill_utils evaluate, predict or export {path}")


def load(path: Path) -> Trained:
    """A model that train wrote, in eval mode on the processor. Raises DamagedFile for any other file."""
    model = models.load(path)
    if "recipe" not in model.record:
        raise _store.DamagedFile(f"{path} was not written by the command train: name a model.safetensors that was")
    return Trained(model, model.record["history"], _recipe(model.record["recipe"]), [])


def torchrun(processes: int, *arguments: str) -> None:
    """What torchrun --standalone --nproc-per-node PROCESSES -m distill_utils ARGUMENTS does in a shell, waited for.

    For notebooks, which have no shell. Raises RuntimeError with the last line of the errors where it fails.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               "-m", "distill_utils", *arguments]
    done = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or [done.stderr[-500:]]
        raise RuntimeError(f"{' '.join(command[1:])} failed: {said[0]}")


def _recipe(record: dict) -> Recipe:
    teacher = record["teacher"] and _recipe(record["teacher"])
    augmentation = record["augmentation"] and Augmentation(**record["augmentation"])
    return Recipe(**{**record, "teacher": teacher, "schedule": Schedule(**record["schedule"]),
                     "augmentation": augmentation, "without": tuple(record["without"])})


def _reserve_output_dir(out: Path, record: dict) -> None:
    """Mark a folder as this run's. Raises ValueError where it is another's."""
    path = out / "recipe.json"
    if not path.exists():
        _store.write_json(path, record)
    found = _store.read_json(path)
    if found != record:
        difference = _store.describe_difference(record, found)
        raise ValueError(f"{out} holds another run ({difference}): choose another --out, or delete it")


@contextlib.contextmanager
def joined(device: str, processes: int) -> Iterator[torch.device]:
    """Where this process trains; under torchrun, joined with the others until the block ends.

    What is joined has to come apart: where the group outlives the block, gloo's threads meet the end of Python and
    now and then abort a process that had done its work. torch.distributed.nn takes the group of the moment as a
    default when it is imported, and keeps it; DistributedDataParallel imports it. So it is imported before.
    """
    place = torch.device(device, int(os.environ.get("LOCAL_RANK", 0))) if device == "cuda" else torch.device(device)
    if processes == 1:
        yield place
        return
    if device == "cuda":
        torch.cuda.set_device(place)
    backend, rank = "nccl" if device == "cuda" else "gloo", int(os.environ["RANK"])
    dist.init_process_group(backend, store=_shared_store(), rank=rank, world_size=processes)
    try:
        yield place
    finally:
        dist.destroy_process_group()


def _shared_store() -> dist.Store:
    """Where the processes find each other. torchrun keeps one store for all attempts, and a worker that is started
    again would meet the last attempt's addresses in it (pytorch issue 135712), so each attempt gets keys of its own.
    Several machines count attempts apart: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun does it."""
    tcp_store, _, _ = next(rendezvous("env://"))
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0) if alone else 0}", tcp_store)


def _can_compile() -> bool:
    """Whether torch.compile works on this machine; says so in one line where it does not."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:  # whatever the tool chain raises
        print(f"torch.compile does not work here ({type(error).__name__}): going on without it")
        return False
    return True
