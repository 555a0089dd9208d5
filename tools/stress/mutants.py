"""Faults put in on purpose: each is one line of the package changed in a copy; which test notices?

    python tests/mutants.py              all of them, into results/reliability.json (make mutants)
    python tests/mutants.py T² teacher   those whose name holds one of these words; nothing is written

A fault that no test notices is a claim that nobody checks. Each is tried on the test files named with it, which
stand for the whole of `make test`; the first test that fails is told. Not part of `make test`: it takes minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import reliability

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import training  # noqa: E402

COPIED = ("distill_utils", "tests", "conftest.py", "pyproject.toml", "README.md", "requirements.txt")


class Mutant(NamedTuple):
    """A fault, the module and the line it changes, and the test files that are asked."""

    name: str
    module: str
    right: str
    wrong: str
    tests: str


MUTANTS = [
    Mutant(
        "distillation switched off", "recipes",
        "total = losses.distillation_loss(student, batch.teacher_logits, batch.labels, temperature, alpha)",
        "total = losses.hard_label_loss(student, batch.labels) + 0 * alpha", "recipes"),
    Mutant("T² dropped", "losses", 'log_target=True) * temperature**2', "log_target=True)", "losses"),
    Mutant("KL the wrong way round", "losses", "F.kl_div(log_q, log_p,", "F.kl_div(log_p, log_q,", "losses"),
    Mutant("mean over classes as well", "losses", 'reduction="batchmean", log_target=True) * temp',
           'reduction="mean", log_target=True) * temp', "losses"),
    Mutant("a gradient for the teacher", "losses", "teacher_logits.detach() / temperature, dim=1)",
           "teacher_logits / temperature, dim=1)", "losses"),
    Mutant("alpha the other way round", "losses",
           "(1 - alpha) * hard_label_loss(student_logits, labels) + alpha * soft",
           "alpha * hard_label_loss(student_logits, labels) + (1 - alpha) * soft", "losses"),
    Mutant("within-group part without the teacher's mass", "losses",
           "weight = (log_p - log_mass_p).exp() if decoupled else log_p.exp()",
           "weight = (log_p - log_mass_p).exp()", "group_losses"),
    Mutant("teacher's rows shuffled", "training", "teacher_logits = teacher[view][index].float()",
           "teacher_logits = teacher[view][index].roll(1, 0).float()", "training"),
    Mutant("cache looked up by place in the batch", "training", "teacher_logits = teacher[view][index].float()",
           "teacher_logits = teacher[view][torch.arange(len(index))].float()", "training"),
    Mutant("cache blind to views", "training", "teacher[view][index]", "teacher[0][index]", "training"),
    Mutant("online teacher in train mode", "training", "    was_training = teacher.training\n    teacher.eval()\n",
           "    was_training = teacher.training\n    teacher.train()\n", "training"),
    Mutant("recorded in train mode", "training", "    was_training = model.training\n    model.eval()\n    device",
           "    was_training = model.training\n    model.train()\n    device", "training teacher_cache"),
    Mutant("student in eval mode while it learns", "training", "        bar.update(step)\n        model.train()\n",
           "        bar.update(step)\n        model.eval()\n", "training"),
    Mutant("resume without the optimizer's moments", "training",
           'self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})', "pass", "training"),
    Mutant("statistics without the spread between batches", "training",
           'norm.running_var.copy_(sums["square"] / sums["count"] - mean**2)', "norm.running_var.copy_(mean**2)",
           "training models"),
    Mutant("every process on the same images", "training",
           "index = index[rank * len(index) // processes : (rank + 1) * len(index) // processes]", "pass", "scale"),
    Mutant("a view that changes with the batch", "augment", 'counter.uniform(seed, f"view {view}", index, 6)',
           'counter.uniform(seed, f"view {view}", torch.arange(len(index)), 6)', "augment"),
    Mutant("object mask inverted", "glyphs", '"object": (glyph > 0) & ~distractor & ~cue',
           '"object": ~(glyph > 0) & ~distractor & ~cue', "glyphs localisation"),
    Mutant("logits not centred", "explain", "outputs.gather(1, classes[:, None])[:, 0] - outputs.mean(1)",
           "outputs.gather(1, classes[:, None])[:, 0]", "explain"),
    Mutant("mass without its chance", "localisation", "return (mass - area) / (1 - area)", "return mass",
           "localisation"),
    Mutant("gates that are never closed", "study_explanations",
           'return f"gate failed ({\'; \'.join(failed)})" if failed else ""', 'return ""', "study_explanations"),
    Mutant("tree distilled on labels", "soft_tree", "(batch.teacher_logits / temperature).softmax(1), **options)",
           "F.one_hot(batch.labels.clamp(min=0), tree.num_classes).float(), **options)", "soft_tree"),
    Mutant("left and right exchanged in the hard tree", "readable",
           "below = torch.stack([2 * node + 1, 2 * node + 2], 1)",
           "below = torch.stack([2 * node + 2, 2 * node + 1], 1)", "readable"),
    Mutant("seeds not paired", "stats", "return t_interval(_differences(treated, control), level=level)",
           "return t_interval(np.sort(treated) - np.sort(control), level=level)", "stats"),
    Mutant("many claims, no correction", "stats", "(len(p) - np.arange(len(p))) * p[order]", "1 * p[order]", "stats"),
    Mutant("accuracy among unlabelled images", "evaluation",
           "labels.numel() == 0 or (labels.dtype == torch.long and int(labels.min()) < 0)", "labels.numel() == 0",
           "evaluation"),
    Mutant("a damaged artifact is believed", "store",
           'if "record" not in metadata or checksum(tensors, metadata["record"]) != metadata.get("sha256"):',
           'if "record" not in metadata:', "store"),
]  # fmt: skip


def caught(mutant: Mutant) -> str:
    """The first test that fails with the fault in place, or "" where none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        path = copy / "distill_utils" / f"{mutant.module}.py"
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.right) != 1:
            sys.exit(f"{mutant.name}: {mutant.module}.py holds its line {text.count(mutant.right)} times, not once")
        path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
        files = [f"tests/test_{name}.py" for name in mutant.tests.split()]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, cwd=copy, env=_environment(copy), capture_output=True, text=True)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return failed[1].removeprefix("tests/") if failed else ""


def _environment(copy: Path) -> dict:
    return os.environ | {"PYTHONPATH": str(copy), "DISTILL_RUNS": str(copy / "runs"), "OMP_NUM_THREADS": "1"}


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    rows = []
    with training.progress_bar(len(chosen), "mutants", unit="mutant") as bar:
        for mutant in chosen:
            rows.append({"fault": mutant.name, "module": mutant.module, "caught by": caught(mutant)})
            bar.update()
    for row in rows:
        print(f"{row['fault']:50} {row['caught by'] or 'NOT CAUGHT'}")
    missed = sum(not row["caught by"] for row in rows)
    print(f"{len(rows) - missed} of {len(rows)} faults are caught")
    if not words:
        reliability.record("mutants", rows)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
