"""Load or train: one recipe is one model, trained once, in any process."""

from dataclasses import replace

import pytest
import torch

from distill_utils import _store, models, recipes, settings, training
from distill_utils.recipes import Recipe, load_or_train, load_or_train_all
from distill_utils.training import Schedule

SCHEDULE = Schedule(steps=4, batch_size=16)
ALONE = Recipe(dataset="digits", options={"width": 3, "dropout": 0.2}, schedule=SCHEDULE)
TEACHER = Recipe(model="teacher", dataset="digits", options={"width": 5}, schedule=SCHEDULE, seed=2)
DISTILLED = replace(ALONE, method="distillation", method_options={"temperature": 3.0}, teacher=TEACHER)


@pytest.fixture
def fits(monkeypatch):
    """The trainings that happened, each with the number of its images."""
    seen, fit = [], training.fit

    def noted(model, train, *arguments, **options):
        seen.append(len(train))
        return fit(model, train, *arguments, **options)

    monkeypatch.setattr(training, "fit", noted)
    return seen


def state(trained):
    return _store.checksum(trained.model.state_dict())


def trained(recipe):
    return load_or_train(recipe, quiet=True)


def test_a_recipe_is_trained_once_and_loaded_with_equal_logits(fits):
    first, again = trained(DISTILLED), trained(DISTILLED)
    assert fits == [719, 719]  # the teacher and the student
    images = recipes.dataset("digits").test.images
    assert torch.equal(training.logits(first.model, images), training.logits(again.model, images))
    assert first.history == again.history
    assert again.history["step"] == [1, 2, 3, 4]
    assert "soft" in again.history
    assert len(again.history["validation_accuracy"]) == 4
    assert again.recipe == DISTILLED
    assert not again.model.training
    assert not list(settings.runs_folder().glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"data_seed": 1}, {"options": {"width": 4}}, {"model": "teacher"}, {"cut": True},
        {"schedule": replace(SCHEDULE, lr=1e-3)}, {"schedule": replace(SCHEDULE, weight_decay=0.5)},
        {"method_options": {"temperature": 2.0}}, {"method_options": {"temperature": 3.0, "alpha": 0.5}},
        {"teacher": replace(TEACHER, seed=3)}, {"transfer": True},
    ],
)  # fmt: skip
def test_any_changed_field_is_another_model(change, fits):
    options = {"width": 3}
    before = state(trained(replace(DISTILLED, options=options)))
    del fits[:]
    after = state(trained(replace(DISTILLED, options=options, **change) if "options" not in change else DISTILLED))
    assert fits
    assert after != before


def test_students_of_one_seed_start_from_the_same_weights_and_batches(monkeypatch):
    started = []
    monkeypatch.setattr(training, "fit", lambda model, train, *a, seed, **o: started.append((state_of(model), seed)))

    def state_of(model):
        return _store.checksum(model.state_dict())

    for recipe in (ALONE, replace(ALONE, method_options={"smoothing": 0.1})):
        trained(recipe)
    assert started[0] == started[1]


def test_building_a_model_leaves_the_callers_random_state_alone():
    trained(ALONE)
    before = torch.get_rng_state()
    trained(ALONE)
    trained(replace(ALONE, seed=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_transfer_set_serves_soft_targets_and_is_refused_with_hard_labels(fits):
    for options in ({}, {"method_options": {"alpha": 0.9}}):  # labels where there are some
        trained(replace(DISTILLED, transfer=True, **options))
        assert fits[-1] == 719 + 360
    with pytest.raises(ValueError, match=r"label -1 .* which only soft targets can use"):
        trained(replace(ALONE, transfer=True, schedule=Schedule(steps=50, batch_size=64)))


def test_a_cut_student_starts_from_its_teachers_weights():
    start = trained(replace(DISTILLED, cut=True, options={"width": 3}, schedule=replace(SCHEDULE, steps=0)))
    expected = models.cut_student(trained(TEACHER).model, 3)
    training.reestimate_batch_norm(expected, recipes.dataset("digits").train.images)
    assert state(start) == _store.checksum(expected.state_dict())


def test_an_interrupted_training_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "whole"))
    whole = state(trained(ALONE))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "interrupted"))
    asked, hard_labels = [], recipes.hard_labels

    def interrupted(model, batch):
        asked.append(batch.progress)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return hard_labels(model, batch)

    monkeypatch.setitem(recipes.METHODS, "hard_labels", recipes.METHODS["hard_labels"]._replace(loss=interrupted))
    with pytest.raises(KeyboardInterrupt):
        trained(ALONE)
    assert state(trained(ALONE)) == whole
    assert asked == [0, 0.25, 0.5, 0.5, 0.75]


def test_several_processes_train_the_same_models_as_one(monkeypatch, tmp_path):
    torch.set_num_threads(1)  # as each of the processes has: sums on two are rounded in another order
    wanted = [DISTILLED, ALONE, DISTILLED, replace(DISTILLED, seed=1)]
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "one"))
    one = [state(trained(recipe)) for recipe in wanted]
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "several"))
    several = load_or_train_all(wanted, workers=2)
    assert [state(model) for model in several] == one
    assert [model.recipe for model in several] == wanted
    names = [sorted(path.name for path in (tmp_path / folder).glob("*.safetensors")) for folder in ("one", "several")]
    assert names[0] == names[1]
    assert len(names[0]) == 5  # a teacher, its logits and three students


@recipes.method("shifted", prepare=lambda context, **options: {"recorded": [context.recorded[0] + 1], "by": 2.0})
def _shifted(model, batch, *, temperature, by):
    soft = (model(batch.images) - batch.teacher_logits).square().mean() / temperature
    return by * soft, {"soft": soft}


def test_a_method_gets_what_it_prepared_and_its_own_targets(monkeypatch):
    recipe = replace(DISTILLED, method="shifted")
    given = recipes.ingredients(recipe, quiet=True)
    plain = recipes.ingredients(DISTILLED, quiet=True)
    assert torch.equal(given["teacher"][0], plain["teacher"][0] + 1)
    assert given["loss"].keywords == {"temperature": 3.0, "by": 2.0}
    before = state(trained(recipe))
    monkeypatch.setitem(recipes.METHODS, "shifted", recipes.METHODS["shifted"]._replace(version=2))
    assert not _store.holds("model", recipes._key(recipe), prefix=recipe.model)
    assert state(trained(recipe)) == before


def test_workers_train_with_methods_that_they_did_not_register(tmp_path, monkeypatch):
    from distill_utils.studies import techniques  # registers "DIST"

    recipe = replace(DISTILLED, method="DIST", method_options={"temperature": 4.0})
    assert techniques.TECHNIQUES
    (model,) = load_or_train_all([recipe], workers=1)
    assert model.recipe == recipe


def test_an_option_that_is_off_changes_no_key(monkeypatch):
    before = recipes._key(ALONE)
    real = recipes.asdict
    monkeypatch.setattr(recipes, "asdict", lambda recipe: real(recipe) | {"added_later": False, "another": ()})
    assert recipes._key(ALONE) == before


def test_classes_left_out_are_not_trained_on(fits):
    trained(replace(ALONE, without=(3, 5)))
    labels = recipes.dataset("digits").train.labels
    assert fits == [int(((labels != 3) & (labels != 5)).sum())]


def test_snapshots_are_the_weights_along_training():
    recipe = replace(ALONE, snapshots=True, schedule=replace(SCHEDULE, steps=8))
    first, again = trained(recipe), trained(recipe)
    assert len(first.snapshots) == len(again.snapshots) == len(first.history["step"]) == 8
    assert _store.checksum(again.snapshots[-1]) == state(first)
    assert _store.checksum(again.snapshots[3]) != state(first)
    assert state(trained(replace(recipe, snapshots=False))) == state(first)


def test_a_dataset_that_changes_after_the_imports_is_refused(monkeypatch):
    """The series' own teacher would be of the old one."""
    monkeypatch.setenv("DISTILL_DATASET", "digits")
    with pytest.raises(ValueError, match="DISTILL_DATASET was 'glyphs' at import and is 'digits' now: restart"):
        recipes.dataset(settings.dataset())


def test_a_trained_model_has_the_names_of_its_classes():
    assert trained(ALONE).model.classes == tuple("0123456789")


@pytest.mark.parametrize("alpha", [1.5, None, "1"])
def test_a_weight_that_is_no_share_is_one_sentence(alpha):
    with pytest.raises(ValueError, match="alpha, the weight of the soft targets, must be a finite number"):
        trained(replace(DISTILLED, method_options={"temperature": 3.0, "alpha": alpha}))


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown method 'hints': one of hard_labels, distillation"):
        Recipe(dataset="digits", method="hints")


def test_a_cut_student_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="cut out of its teacher needs one"):
        Recipe(dataset="digits", cut=True)


def test_a_run_that_was_killed_before_its_loss_was_edited_is_begun_again(monkeypatch, fits):
    name = _store.digest(_store._versioned("model", recipes._key(ALONE)))
    _store.save(settings.runs_folder() / f"student-{name}.partial", {}, {"key": {"loss": "of an earlier version"}})
    assert torch.equal(*(torch.tensor(trained(ALONE).history["step"]) for _ in range(2)))
    assert len(fits) == 2, "refused once, then trained from the first step"
