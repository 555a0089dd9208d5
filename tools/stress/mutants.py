"""Faults put in on purpose: one line of a copy is changed, and a test or a claim of a notebook has to fail.

    python tools/stress/mutants.py              all of them, into results/reliability.json (make mutants)
    python tools/stress/mutants.py T² teacher   those whose name contains one of these words; no others are touched

A fault that no test notices is a claim that nobody checks. Each is tried on the test files named with it only.

The second half are claims of notebooks: the notebook is run whole, without a fault and with the fault that would make
the claim false, with an empty store and with a warm one. This measures the claim's null. If a warm store hides an
edit of the package, tests/package/test_versions.py has to notice it. Not part of `make test`: the first half takes
minutes, the second up to an hour of one core for each notebook.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import reliability

from distill_utils import checks, training

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
    Mutant("alpha the other way round", "losses",
           "(1 - alpha) * hard_label_loss(student_logits[labelled], labels[labelled]) + alpha",
           "alpha * hard_label_loss(student_logits[labelled], labels[labelled]) + (1 - alpha)",
           "package/test_losses"),
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
    Mutant("gates that are never closed", "studies/title", 'if failed else ""', 'if failed and False else ""',
           "studies/test_title"),
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


class Claim(NamedTuple):
    """A claim of a notebook, and the fault that makes it false: in a module, or in a cell of the notebook itself."""

    name: str
    notebook: str
    module: str  # "" for the notebook
    right: str
    wrong: str


CLAIMS = [
    Claim("arms of one seed see the same batches", "03_train_student", "", "seed=recipe.seed, quiet=True,",
          "seed=recipe.seed + bool(recipe.teacher), quiet=True,"),
    Claim("another seed has other weights and other batches", "03_train_student", "training",
          'permutation(seed, f"epoch {epoch}", length)', 'permutation(0, f"epoch {epoch}", length)'),
    Claim("the distilled student beats the student alone", "03_train_student", "recipes",
          "soft_target_loss(student, batch.teacher_logits, temperature)", "hard_label_loss(student, batch.labels)"),
    Claim("rows of any image teach nothing", "03_train_student", "training", "teacher[view][index]",
          "teacher[view][index].zero_()"),
    Claim("our ECE is the package's", "04_test_both", "evaluation", "(confidence * 15)", "(confidence * 10)"),
    Claim("distilled beats alone, mean of three seeds", "04_test_both", "recipes",
          "soft_target_loss(student, batch.teacher_logits, temperature)", "hard_label_loss(student, batch.labels)"),
    Claim("every model was overconfident", "04_test_both", "", "min(fitted.values())",
          "min(1 / t for t in fitted.values())"),
    Claim("the variance formula holds in every channel", "05_dropout_tuning", "",
          "after = dropout(x, 1 - kept, generator).var((0, 2, 3))",
          "after = dropout(x, 0.0, generator).var((0, 2, 3))"),
    Claim("the search's winner keeps up (points against the study's settings)", "05_dropout_tuning", "",
          'direction="maximize"', 'direction="minimize"'),
    Claim("the loss between families falls first (mean difference of shares)", "07_techniques_compared", "",
          "groups = evaluation.look_alikes(alike, max(2, C // 2))",
          "groups = evaluation.look_alikes(alike, max(2, C // 2)).flip(0)"),
    Claim("recorded and online teacher give the same loss", "06_scaling", "",
          "looked_up = losses.soft_target_loss(z, recorded[0][:64].float(), T)",
          "looked_up = losses.soft_target_loss(z, recorded[0][:64].roll(1, 0).float(), T)"),
    Claim("our paths are the package's", "09_readable_student", "soft_tree",
          "F.logsigmoid(scores), F.logsigmoid(-scores)", "F.logsigmoid(-scores), F.logsigmoid(scores)"),
    Claim("the hard tree says what the most likely path says", "09_readable_student", "hard_tree",
          "part(2 * node + 1, used), part(2 * node + 2,", "part(2 * node + 2, used), part(2 * node + 1,"),
    Claim("the short tree of the drawing reads digits", "09_readable_student", "hard_tree",
          "part(2 * node + 1, used), part(2 * node + 2,", "part(2 * node + 2, used), part(2 * node + 1,"),
    Claim("the drawn tree beats a CART of depth 4, distilled", "09b_what_reading_costs", "",
          'accuracy(chosen) - accuracy(carts["distilled"][4])', 'accuracy(chosen) - accuracy(carts["distilled"][8])'),
]  # fmt: skip


def copied(folder: Path, names: tuple = COPIED) -> Path:
    """A copy of what the tests, or a notebook, need."""
    for source in map(ROOT.joinpath, names):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder


def put_in(fault: Mutant | Claim, copy: Path) -> None:
    """Change the one place of a fault in a copy. Exits where it is not there once."""
    path = copy / "distill_utils" / f"{fault.module}.py"
    right, wrong = fault.right, fault.wrong
    if not fault.module:  # JSON: quotation marks are escaped
        path, right, wrong = (
            copy / "notebooks" / f"{fault.notebook}.ipynb",
            json.dumps(right)[1:-1],
            json.dumps(wrong)[1:-1],
        )
    text = path.read_text(encoding="utf-8")
    if text.count(right) != 1:
        sys.exit(f"{fault.name}: {path.name} has {right!r} {text.count(right)} times, not once")
    path.write_text(text.replace(right, wrong), encoding="utf-8")


RUN = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
place = {"metadata": {"path": "notebooks"}}
nbclient.NotebookClient(book, timeout=7200, allow_errors=True, resources=place).execute()
"""


def claimed(notebook: str, copy: Path, runs: Path) -> dict[str, dict]:
    """Name -> recorded check of a notebook that runs to its end, whatever fails, in a copy."""
    own = {
        "PYTHONPATH": str(copy),
        "DISTILL_RUNS": str(runs),
        "DISTILL_BUILD": str(copy / "build"),
        "OMP_NUM_THREADS": "1",
    }
    path = f"notebooks/{notebook}.ipynb"
    subprocess.run([sys.executable, "-c", RUN, path], cwd=copy, env=os.environ | own, check=True)
    lines = (copy / "build" / "checks" / f"{notebook}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def examined(claim: Claim, plain: dict[str, dict], warm: Path) -> dict:
    """The row of a claim; plain: the notebook's checks without a fault; warm: the store that it left."""
    found = {}
    for store in ("cold", "warm"):
        with tempfile.TemporaryDirectory() as folder:
            copy = copied(Path(folder), (*COPIED, "notebooks", "results"))
            put_in(claim, copy)
            if store == "warm":
                shutil.copytree(warm, copy / "runs")
            found[store] = claimed(claim.notebook, copy, copy / "runs").get(
                claim.name, {"value": "–", "passed": False}
            )
    row, caught_by = plain[claim.name], {store: not found[store]["passed"] for store in found}
    if not caught_by["warm"] and claim.module:
        versions = caught(Mutant(claim.name, claim.module, claim.right, claim.wrong, "package/test_versions"))
        caught_by["warm"] = bool(versions) and "by its version"
    null = found["cold"]["value"]
    shares = row["low"] is not None or row["high"] is not None
    share = (
        checks.remains(row | {"null": null}) if shares and isinstance(null, float) and null != row["value"] else None
    )
    return {
        "claim": claim.name,
        "notebook": claim.notebook.partition("_")[0],
        "fault in": claim.module or "the notebook",
        "null": null,
        "value": row["value"],
        "low": row["low"],
        "high": row["high"],
        "must remain": "–" if share is None else f"{share:.0%}",
        "cold": caught_by["cold"],
        "warm": caught_by["warm"],
    }


def examine_claims(chosen: list[Claim]) -> list[dict]:
    """The rows of these claims, notebook by notebook."""
    rows = []
    for notebook in dict.fromkeys(claim.notebook for claim in chosen):
        with tempfile.TemporaryDirectory() as folder:
            copy = copied(Path(folder), (*COPIED, "notebooks", "results"))
            plain = claimed(notebook, copy, copy / "runs")
            if failed := [name for name, row in plain.items() if row["passed"] is False]:
                sys.exit(f"{notebook} fails without any fault: {', '.join(failed)}")
            for claim in (claim for claim in chosen if claim.notebook == notebook):
                if claim.name not in plain:
                    sys.exit(f"{notebook} has no check {claim.name!r}: change CLAIMS")
                rows.append(examined(claim, plain, copy / "runs"))
                print(rows[-1], flush=True)
    return rows


def caught(mutant: Mutant) -> str:
    """The first test that fails with the fault in place, or "" if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        put_in(mutant, copy)
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
    claims = [claim for claim in CLAIMS if not words or any(word in claim.name for word in words)]
    found = examine_claims(claims)
    missed = sum(not row["caught by"] for row in rows) + sum(not (row["cold"] and row["warm"]) for row in found)
    print(f"{len(rows) + len(found) - missed} of {len(rows) + len(found)} faults are caught")
    if not words:
        reliability.record("mutants", rows)
    if found:
        kept = {row["claim"]: row for row in reliability.kept().get("claims", []) + found}
        reliability.record("claims", [kept[claim.name] for claim in CLAIMS if claim.name in kept])
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
