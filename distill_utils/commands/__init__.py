"""The commands: python -m distill_utils doctor | run | train | evaluate | predict | export | study NAME | checks."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from distill_utils import settings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distill_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="check Python, packages, data, disk, threads and GPU, and say what to fix")
    run = commands.add_parser("run", help="execute the notebooks; outputs, pages and checks go to build/")
    run.add_argument("notebooks", nargs="*", help="beginnings of notebook names, such as 02; default: all")
    run.add_argument("--in-place", action="store_true", help="also write the outputs into notebooks/")
    commands.add_parser("checks", help="print the table of checks of the last run")
    study = commands.add_parser("study", help="run what is missing of a study of many seeds, and print its verdicts")
    study.add_argument("name", help="an unknown name lists the known ones")
    study.add_argument("--dataset", help="default: those with results, or the first that the study is made for")
    study.add_argument("--seeds", type=_count, help="default: as many as there are, or 5")
    study.add_argument("--workers", type=_count, help="processes of one thread each; default: one per core")
    study.add_argument("--replace", action="store_true", help="run everything again")
    study.add_argument("--verify", type=_count_or_0, metavar="K", help="do K random runs (0: all) again with "
                       "today's code and compare them with the committed results")
    _add_train(commands)
    evaluate = commands.add_parser("evaluate", help="measure a trained model on the validation and test images")
    predict = commands.add_parser("predict", help="the classes that a trained model finds in image files")
    export = commands.add_parser("export", help="write a trained model as a program that other software runs")
    for command in (evaluate, predict, export):
        command.add_argument("model", type=_path, help="a model.safetensors that train wrote")
    evaluate.add_argument("--dataset", default=settings.dataset())
    predict.add_argument("images", type=_path, nargs="+", metavar="IMAGE")
    predict.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    chosen = parser.parse_args(arguments)
    if chosen.command == "doctor":
        from distill_utils.commands import doctor  # alone, so that it can speak where a package is missing

        return 0 if doctor.examine() else 1
    return _run(chosen)


def _add_train(commands) -> None:
    train = commands.add_parser(
        "train",
        help="train one model in a folder of its own, also under torchrun (torchrun … -m distill_utils train …)",
    )
    add = train.add_argument
    add("role", choices=("teacher", "student"), help="the student is distilled from the teacher")
    add("--out", type=_path, required=True, help="folder of this run; ends with model.safetensors in it")
    add("--dataset", help="default: that of DISTILL_DATASET, or glyphs")
    add("--side", type=_count, help="of the images of folder:PATH, in pixels; default: DISTILL_SIDE or 32")
    add("--model", help="a network of distill_utils.models; default: that of the role")
    add("--width", type=_count, help="of the network's layers")
    add("--steps", type=_count, help="default: 2000 for the teacher, 1000 for the student")
    add("--batch-size", type=_count, help="images per step in all processes together; default: 128")
    add("--lr", type=_above_0, help="peak learning rate; default: 0.004")
    add("--views", type=_count_or_0, help="augmented views; default: new ones every epoch (teacher), none (student)")
    add("--teacher", type=_path, help="model.safetensors to distil; default: the series' own teacher")
    add("--temperature", type=_above_0, default=8.0)
    add("--alpha", type=_share, default=1.0, help="weight of the soft targets; 0: the labels alone")
    add("--transfer", action="store_true", help="train on the unlabelled transfer set too (needs alpha 1)")
    add("--seed", type=_count_or_0, default=0)
    add("--checkpoint-every", type=_count, help="steps; default: a twentieth of the run")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--bf16", nargs="?", const=True, default=False, choices=(True, "auto"), metavar="auto",
        help="compute in bfloat16, which changes the model a little; auto: if that is faster here")
    add("--compile", action="store_true", help="compile the steps; pays in long runs")


def _number_type(what: str, read, *bounds, **options):
    """A type for argparse: a number between these bounds. argparse names it `what` in its errors."""

    def parse(text: str):
        from distill_utils import _validate  # not above: doctor has to work where torch is missing

        value = read(text)
        _validate.number(what, value, *bounds, **options)
        return value

    parse.__name__ = what
    return parse


_count = _number_type("whole number above 0", int, 1)
_count_or_0 = _number_type("whole number from 0", int, 0, 2**63 - 1)
_above_0 = _number_type("number above 0", float, 0, inside=True)
_share = _number_type("number from 0 to 1", float, 0, 1)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


_path.__name__ = "path"


def _train(chosen: argparse.Namespace) -> Path:
    from distill_utils import _validate, data, models, recipes
    from distill_utils.commands import train

    # Before the folder is claimed and a teacher is trained for minutes.
    dataset = settings.dataset(chosen.dataset, chosen.side)
    data.check_name(dataset)
    models.check_name(chosen.model or chosen.role)
    _validate.temperature(chosen.temperature)
    if chosen.transfer and (chosen.role == "teacher" or chosen.alpha < 1):
        raise ValueError("--transfer adds images without labels: it needs a student and --alpha 1")
    teacher = replace(recipes.TEACHER, dataset=dataset)
    recipe = teacher if chosen.role == "teacher" else recipes.Recipe(dataset=dataset)
    given = {name: getattr(chosen, name) for name in ("steps", "batch_size", "lr", "views", "bf16")}
    schedule = replace(recipe.schedule, **{name: value for name, value in given.items() if value is not None})
    options = {"width": chosen.width} if chosen.width else {}
    recipe = replace(recipe, model=chosen.model or chosen.role, options=options, schedule=schedule, seed=chosen.seed,
                     transfer=chosen.transfer)
    if chosen.role == "student" and chosen.alpha > 0:  # else it needs no teacher
        given_teacher = train.load(chosen.teacher).recipe if chosen.teacher else teacher
        recipe = replace(recipe, method="distillation", teacher=given_teacher,
                         method_options={"temperature": chosen.temperature, "alpha": chosen.alpha})
    return train.train(recipe, chosen.out, teacher=chosen.teacher, checkpoint_every=chosen.checkpoint_every,
                       device=chosen.device, compiled=chosen.compile)


def _run(chosen: argparse.Namespace) -> int:
    from distill_utils import _store, checks, data, training
    from distill_utils.commands import run, study, use

    user_errors = (ValueError, OSError, data.DataError, _store.DamagedFile, training.TrainingDiverged,
                   run.NotebookFailed)
    ok = True
    try:
        if chosen.command == "run":
            run.run(chosen.notebooks, in_place=chosen.in_place)
        elif chosen.command == "train":
            _train(chosen)
        elif chosen.command == "evaluate":
            print(use.evaluate(chosen.model, chosen.dataset))
        elif chosen.command == "predict":
            ok = use.predict(chosen.model, chosen.images, as_json=chosen.json)
        elif chosen.command == "export":
            use.export(chosen.model)
        elif chosen.command == "study":
            options = {"workers": chosen.workers, "replace": chosen.replace, "verify_count": chosen.verify}
            ok = study.run(chosen.name, chosen.dataset, chosen.seeds, **options)
        else:
            print(checks.table())
    except user_errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if ok else 1
