"""Faults put in on purpose: one line of the package is changed in a copy, and a test has to fail.

    python tools/stress/mutants.py              all of them, into results/reliability.json (make mutants)
    python tools/stress/mutants.py T² teacher   those whose name contains one of these words; nothing is written

A fault that no test notices is a claim that nobody checks. Each is tried on the test files named with it only. Not
part of `make test`: it takes minutes.
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

from distill_utils import training

ROOT = reliability.ROOT
COPIED = ("distill_utils", "tests", "conftest.py", "pyproject.toml", "README.md", "requirements.txt")


class Mutant(NamedTuple):
    """A fault, the module it changes, its right and wrong text, and the test files that are run."""

    name: str
    module: str
    right: str
    wrong: str
    tests: str


MUTANTS = [
    Mutant("distillation switched off", "recipes", "soft_target_loss(student, batch.teacher_logits, temperature)",
           "hard_label_loss(student, batch.labels)", "package/test_recipes"),
    Mutant("T² dropped", "losses", "log_target=True) * temperature**2", "log_target=True)", "package/test_losses"),
    Mutant("KL the wrong way round", "losses", "F.kl_div(log_q, log_p,", "F.kl_div(log_p, log_q,",
           "package/test_losses"),
    Mutant("mean over classes as well", "losses", 'reduction="batchmean"', 'reduction="mean"', "package/test_losses"),
    Mutant("a gradient for the teacher", "losses", "detach() / temperature, dim=1", "clone() / temperature, dim=1",
           "package/test_losses"),
    Mutant("alpha the other way round", "losses", "(1 - alpha) * hard_label_loss(student_logits, labels) + alpha",
           "alpha * hard_label_loss(student_logits, labels) + (1 - alpha)", "package/test_losses"),
    Mutant("within-group part without the teacher's mass", "losses", ".exp() if decoupled else log_p.exp()", ".exp()",
           "package/test_group_losses"),
    Mutant("teacher's rows shuffled", "training", "teacher[view][index]", "teacher[view][index].roll(1, 0)",
           "package/test_training"),
    Mutant("cache looked up by place in the batch", "training", "teacher[view][index]", "teacher[view][: len(index)]",
           "package/test_training"),
    Mutant("cache blind to views", "training", "teacher[view][index]", "teacher[0][index]", "package/test_training"),
    Mutant("online teacher in train mode", "training", "eval_mode(teacher) if", "contextlib.nullcontext() if",
           "package/test_training"),
    Mutant("recorded in train mode", "training", "with eval_mode(model):", "with contextlib.nullcontext():",
           "package/test_training package/test_recorded_teacher"),
    Mutant("student in eval mode while it learns", "training", "model.train()", "model.eval()",
           "package/test_training"),
    Mutant("resume without the optimizer's moments", "_checkpoint", '"state": state', '"state": {}',
           "package/test_training"),
    Mutant("statistics without the spread between batches", "training", 'sums["square"] / sums["count"] - mean**2',
           "mean**2", "package/test_models package/test_batchnorm"),
    Mutant("every process on the same images", "training",
           "index[rank * len(index) // processes : (rank + 1) * len(index) // processes]", "index",
           "commands/test_train"),
    Mutant("a view that changes with the batch", "augment", 'f"view {view}", index,',
           'f"view {view}", torch.arange(len(index)),', "package/test_augment"),
    Mutant("object mask inverted", "glyphs", '"object": (glyph', '"object": ~(glyph', "package/test_glyphs"),
    Mutant("logits not centred", "explain/__init__", "[:, 0] - outputs.mean(1)", "[:, 0]", "explain/test_explain"),
    Mutant("mass without its chance", "explain/metrics", "(mass - area) / (1 - area)", "mass", "explain"),
    Mutant("gates that are never closed", "studies/explanations", 'if failed else ""', 'if failed and False else ""',
           "studies/test_explanations"),
    Mutant("tree distilled on labels", "soft_tree", "(batch.teacher_logits / temperature).softmax(1)",
           "F.one_hot(batch.labels.clamp(min=0), tree.num_classes).float()", "package/test_soft_tree"),
    Mutant("left and right exchanged in the hard tree", "hard_tree", "part(2 * node + 1, used), part(2 * node + 2,",
           "part(2 * node + 2, used), part(2 * node + 1,", "package/test_hard_tree"),
    Mutant("seeds not paired", "stats", "t_interval(_differences(treated, control)",
           "t_interval(np.sort(treated) - np.sort(control)", "package/test_stats"),
    Mutant("many claims, no correction", "stats", "(len(p) - np.arange(len(p))) * p[order]", "p[order]",
           "package/test_stats"),
    Mutant("accuracy among unlabelled images", "evaluation",
           "(labels.dtype == torch.long and int(labels.min()) < 0)", "False", "package/test_evaluation"),
    Mutant("a damaged artifact is believed", "_store", 'metadata["record"]) != metadata.get("sha256")',
           'metadata["record"]) == ""', "package/test_store"),
]  # fmt: skip


def caught(mutant: Mutant) -> str:
    """The first test that fails with the fault in place, or "" if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
        path = copy / "distill_utils" / f"{mutant.module}.py"
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.right) != 1:
            sys.exit(
                f"{mutant.name}: {mutant.module}.py has {mutant.right!r} {text.count(mutant.right)} times, not once"
            )
        path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
        tests = [f"tests/{name}.py" if "/" in name else f"tests/{name}" for name in mutant.tests.split()]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", *tests]
        own = {"PYTHONPATH": str(copy), "DISTILL_RUNS": str(copy / "runs"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, env=os.environ | own, capture_output=True, text=True)
        failed = re.search(r"^FAILED (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if done.returncode and not failed:
            sys.exit(f"{mutant.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        return failed[1].removeprefix("tests/") if failed else ""


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    rows = []
    with training.progress_bar(len(chosen), "mutants", unit="mutant") as bar:
        for mutant in chosen:
            rows.append({"fault": mutant.name, "module": mutant.module, "caught by": caught(mutant)})
            bar.write(f"{mutant.name:50} {rows[-1]['caught by'] or 'NOT CAUGHT'}")
            bar.update()
    missed = sum(not row["caught by"] for row in rows)
    print(f"{len(rows) - missed} of {len(rows)} faults are caught")
    if not words:
        reliability.record("mutants", rows)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
