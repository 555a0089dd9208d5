"""Study "language": what a small language model learns from a larger one, where the truth is known (lesson 11).

A student has 400 sentences of its own and 1,200 steps; the teacher has 128 units and 20,000 sentences. Methods:
alone; soft (targets on the student's own sentences); sequence (8,000 sentences that the teacher wrote, as if real;
Kim and Rush 2016); samples (soft targets on the same 8,000); on_policy (soft targets on what the student itself
writes, after 200 steps alone; Agarwal et al. 2024), with KL(student ‖ teacher) if "reverse", as Gu et al. (2024);
fresh (the same with what the teacher writes in each step). Four arms of 4,800 steps ask whether 1,200 are too few for
many sentences, "fresh" asks whether it matters who wrote them; both were added after pilots, of two and four seeds.
Data, teacher, first weights and batches share the seed. A network is taken at the best of twenty points of training,
by its excess bits on validation sentences, and "matched" at the first at which it equals another arm at its best.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import _store, language, studies, training
from distill_utils.data import ImageSet
from distill_utils.language import LanguageModel, word_loss
from distill_utils.training import Schedule, seeded

OWN, MANY, WRITTEN = 400, 20_000, 8_000  # sentences: a student's, the teacher's, those that the teacher writes
SIZES = {"train": MANY, "validation": 1000, "test": 3000}
UNITS = {"teacher": 128, "student": 20}
SCHEDULES = {"teacher": Schedule(1500, lr=4e-3), "student": Schedule(1200, lr=1e-2),
             "warm up": Schedule(200, lr=1e-2), "on_policy": Schedule(1000, lr=1e-2)}
TEACHER: dict = {"model": "teacher"}
ALONE: dict = {"method": "alone"}
ALONE_MANY, SOFT = ALONE | {"sentences": MANY}, {"method": "soft"}
LONGER = {"steps": 4800}
SEQUENCE, SAMPLES = {"method": "sequence"}, {"method": "samples"}
FORWARD, REVERSE = {"method": "on_policy"}, {"method": "on_policy", "reverse": True}
FRESH: dict = {"method": "fresh"}
_KEYS = ("model", "method", "sentences", "reverse", "temperature", "units", "matched", "steps")
_MATCHED = {"soft": SOFT, "alone": ALONE, "alone, 20,000 sentences": ALONE_MANY}


class _Trained(NamedTuple):
    """A network in eval mode; its measures at twenty points of training, lists by name; and the number of words that
    the teacher read or wrote for it."""

    model: LanguageModel
    curve: dict[str, list[float]]
    teacher_words: int


def sentences(part: str, seed: int = 0) -> Tensor:
    """The sentences of a part of SIZES, N×L. Students have the first 400 of "train"."""
    return language.sample(SIZES[part], len(SIZES) * seed + list(SIZES).index(part))


def trained(arm: dict, seed: int = 0, *, quiet: bool = False) -> _Trained:
    """The network of an arm: loaded where it was trained before, else trained, after its teacher."""
    role = "teacher" if arm == TEACHER else "student"
    with seeded(seed):
        model = LanguageModel(arm.get("units", UNITS[role]))

    def make(partial):
        validation, states = sentences("validation", seed), []
        curve: dict[str, list[float]] = {"excess_bits": [], "attractor_error": []}

        def note(report):
            states.append({name: value.clone() for name, value in model.state_dict().items()})
            curve["excess_bits"].append(excess_bits(model, validation))
            curve["attractor_error"].append(attractor_error(model))

        words = _train(model, arm, seed, note, quiet)
        best = curve["excess_bits"].index(min(curve["excess_bits"]))
        return states[best], {"curve": curve, "teacher_words": words}

    key = {"arm": arm, "seed": seed, "sentences": [OWN, WRITTEN, SIZES], "units": UNITS, "schedules": repr(SCHEDULES)}
    state, record = _store.load_or_make("language", key, make)
    model.load_state_dict(state)
    return _Trained(model.eval(), record["curve"], record["teacher_words"])


def _train(model: LanguageModel, arm: dict, seed: int, note: Callable, quiet: bool) -> int:
    """Train in place and return the number of words that the teacher read or wrote; note is called twenty times."""
    def run(tokens, loss, schedule, **options):
        what = "training the teacher" if arm == TEACHER else f"training a student, {arm['method']}"
        steps = {"steps": arm["steps"]} if "steps" in arm else {}
        fit(model, tokens, loss, replace(SCHEDULES[schedule], **steps), seed=seed, quiet=quiet, what=what, **options)

    train, method = sentences("train", seed), arm.get("method")
    if arm == TEACHER:
        run(train, hard_loss, "teacher", on_report=note)
    if method == "alone":
        run(train[:arm.get("sentences", OWN)], hard_loss, "student", on_report=note)
    if method in (None, "alone"):
        return 0
    teacher, temperature = trained(TEACHER, seed, quiet=quiet).model, arm.get("temperature", 1.0)
    tokens = train[:OWN] if method == "soft" else language.generate(teacher, WRITTEN, seed)
    if method == "sequence":
        run(tokens, hard_loss, "student", on_report=note)
    if method in ("soft", "samples"):
        with torch.no_grad():
            recorded = teacher(tokens).half()

        def soft_loss(model, tokens, recorded):
            return word_loss(model(tokens), recorded, tokens, temperature)

        run(tokens, soft_loss, "student", teacher=[recorded], on_report=note)
    if method not in ("on_policy", "fresh"):
        return count_words(tokens)
    read = 0

    def loss_on_written(model, tokens, recorded):
        nonlocal read
        writer = model if method == "on_policy" else teacher
        written = language.generate(writer, len(tokens), int(torch.randint(2**62, ())))
        read += count_words(written)
        with torch.no_grad():
            answers = teacher(written)
        return word_loss(model(written), answers, written, temperature, reverse=arm.get("reverse", False))

    run(train[:OWN], hard_loss, "warm up")
    run(train[:OWN], loss_on_written, "on_policy", on_report=note)
    return read


def fit(model: LanguageModel, tokens: Tensor, loss: Callable, schedule: Schedule, **options) -> dict[str, list]:
    """training.fit for sentences, in place. loss(model, tokens, recorded) is to be minimised; options: those of
    training.fit, teacher being a list of one tensor N×L×V, of which the loss gets the rows of its batch."""
    def of_batch(model, batch):
        return loss(model, batch.images.flatten(1).long(), batch.teacher_logits), {}

    rows = ImageSet(tokens[:, None, None].float(), torch.zeros(len(tokens), dtype=torch.long))  # one pixel high
    return training.fit(model, rows, of_batch, schedule, **options)


def hard_loss(model: LanguageModel, tokens: Tensor, recorded: Tensor | None = None) -> Tensor:
    """Cross-entropy of the next word in nats, the mean over all words."""
    logits = model(tokens)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, tokens[:, 1:].flatten(), ignore_index=language.PADDING)


def count_words(tokens: Tensor) -> int:
    """The number of words in sentences N×L, full stops included."""
    return int((tokens[:, 1:] != language.PADDING).sum())


# Measures


@torch.no_grad()
def excess_bits(model: LanguageModel, tokens: Tensor) -> float:
    """Bits per sentence that a code made for the model spends beyond the truth's: the mean of log₂ (truth / model)
    over sentences of the language, an estimate of KL(truth ‖ model)."""
    nats = float(hard_loss(model, tokens)) * count_words(tokens) / len(tokens)
    return (nats + float(language.log_probability(tokens).mean())) / math.log(2)


def grammatical(tokens: Tensor) -> float:
    """The share of sentences N×L that the grammar can produce."""
    return float(language.log_probability(tokens).isfinite().float().mean())


def beginnings(*, attractor: bool = True) -> Tensor:
    """All 1,200 beginnings "the NOUN that the NOUN VERB", N×7, whose nouns differ in number (equal ones if not
    attractor). A verb in the number of the first noun must follow."""
    nouns, verbs = language.NOUNS, language.TRANSITIVE
    return language.encode([
        f"the {nouns[i]} that the {nouns[j]} {verbs[k]}"
        for i in range(len(nouns)) for j in range(len(nouns)) for k in range(len(verbs))
        if (i + j) % 2 == attractor and (j + k) % 2 == 0
    ])


@torch.no_grad()
def attractor_error(model: LanguageModel, *, attractor: bool = True) -> float:
    """Of the probability that a model gives to verbs after beginnings, the share of those in the wrong number."""
    tokens = beginnings(attractor=attractor)
    right = (language.next_word(tokens)[:, -1] > 0).float()  # N×V
    every = right.amax(0)  # the verbs
    p = model(tokens)[:, -1].softmax(1) * every
    return 1 - float(((p * right).sum(1) / p.sum(1)).mean())


@torch.no_grad()
def acceptance(model: LanguageModel, teacher: LanguageModel, tokens: Tensor) -> float:
    """The probability that speculative decoding accepts a word that the model drafts: Σ min(p, q), the mean over the
    words of sentences that the teacher wrote (Leviathan et al. 2023)."""
    both = torch.minimum(model(tokens).softmax(2), teacher(tokens).softmax(2)).sum(2)
    return float(both[:, :-1][tokens[:, 1:] != language.PADDING].mean())


def error_at(curve: dict[str, list[float]], level: float) -> float:
    """The attractor error when the excess bits first fell to a level, between two points of training linearly."""
    bits, error = curve["excess_bits"], curve["attractor_error"]
    i = next(i for i, value in enumerate(bits) if value <= level)
    share = (bits[i - 1] - level) / (bits[i - 1] - bits[i]) if i else 1.0
    return error[i - 1] + share * (error[i] - error[i - 1]) if i else error[0]


# The study


def arms(dataset: str) -> list[dict]:
    """The teacher, the methods, two temperatures, longer training, two sizes of student, and pairs at equal excess
    bits."""
    explored = [SOFT | {"temperature": t} for t in (2.0, 4.0)] + [
        arm | LONGER for arm in (ALONE_MANY, SOFT, SEQUENCE, SAMPLES)]
    explored += [arm | {"units": units} for units in (10, 40) for arm in (ALONE, SOFT)]
    matched = [{"method": "soft", "matched": "alone"}, ALONE | {"matched": "soft"},
               {"method": "soft", "matched": "alone, 20,000 sentences"}, ALONE_MANY | {"matched": "soft"}]
    return [TEACHER, ALONE, ALONE_MANY, SOFT, SEQUENCE, SAMPLES, FORWARD, REVERSE, FRESH, *explored, *matched]


def run(arm: dict, seed: int, dataset: str) -> dict:
    """The measures of an arm on test sentences and on what it writes."""
    if "matched" in arm:
        other = _MATCHED[arm["matched"]]
        own = trained({name: value for name, value in arm.items() if name != "matched"}, seed, quiet=True).curve
        level = max(min(own["excess_bits"]), min(trained(other, seed, quiet=True).curve["excess_bits"]))
        return {"attractor_error": error_at(own, level), "excess_bits": level}
    found, teacher = trained(arm, seed, quiet=True), trained(TEACHER, seed, quiet=True).model
    written = language.generate(found.model, 2000, 1000 + seed)
    return {
        "excess_bits": excess_bits(found.model, sentences("test", seed)), "grammatical": grammatical(written),
        "distinct": len(set(language.decode(written))) / len(written),
        "attractor_error": attractor_error(found.model),
        "error_without_attractor": attractor_error(found.model, attractor=False),
        "acceptance": acceptance(found.model, teacher, language.generate(teacher, 2000, 2000 + seed)),
        "teacher_words": found.teacher_words,
    }


def of(arm: dict, metric: str) -> Callable:
    """From the runs of the results to the metric of exactly this arm, by seed."""
    return lambda runs: studies.select(runs, metric, **{key: arm.get(key) for key in _KEYS})


def claims(dataset: str) -> list[studies.Claim]:
    """Soft targets against training alone, against hard sentences of the teacher's, and against one's own sentences;
    both directions of KL; errors of agreement at equal excess bits. Temperature and size are exploratory."""
    def bits(name, treated, control, smallest, *, primary=True):
        return studies.Claim(name, "excess_bits", of(treated, "excess_bits"), of(control, "excess_bits"), smallest,
                             higher_is_better=False, label="excess bits per sentence", unit="bits", primary=primary)

    def agreement(name, treated, control, smallest):
        return studies.Claim(name, "attractor_error", of(treated, "attractor_error"), of(control, "attractor_error"),
                             smallest, higher_is_better=False, label="verbs in the wrong number")

    few, many = {"matched": "alone"}, {"matched": "alone, 20,000 sentences"}
    rows = [
        bits("soft targets on 400 sentences against alone on the same 400", SOFT, ALONE, 0.5),
        bits("soft targets on 400 sentences against alone on 20,000", SOFT, ALONE_MANY, 0.1),
        bits("soft targets against sequence level, the same sentences of the teacher's", SAMPLES, SEQUENCE, 0.1),
        bits("on policy, forward KL, against the teacher's sentences with soft targets", FORWARD, SAMPLES, 0.05),
        bits("on policy, reverse against forward KL", REVERSE, FORWARD, 0.05),
        studies.Claim("on policy, reverse against forward KL, correctness", "grammatical", of(REVERSE, "grammatical"),
                      of(FORWARD, "grammatical"), 0.01, label="grammatical sentences"),
        agreement("agreement across an attractor, soft against alone on 400, at equal excess bits",
                  SOFT | few, ALONE | {"matched": "soft"}, 0.02),
        agreement("agreement across an attractor, soft on 400 against alone on 20,000, at equal excess bits",
                  SOFT | many, ALONE_MANY | {"matched": "soft"}, 0.01),
    ]
    rows += [bits(f"soft targets at temperature {t:g} against 1", SOFT | {"temperature": t}, SOFT, 0.1, primary=False)
             for t in (2.0, 4.0)]
    rows += [bits(f"{name}, four times as many steps", arm | LONGER, other | LONGER, 0.1, primary=False)
             for name, arm, other in (
                 ("soft targets on 400 sentences against alone on 20,000", SOFT, ALONE_MANY),
                 ("soft targets on 400 sentences against sequence level on 8,000", SOFT, SEQUENCE),
                 ("soft targets against sequence level, the same sentences of the teacher's", SAMPLES, SEQUENCE))]
    rows.append(bits("on policy, forward KL, against as many fresh sentences of the teacher's", FORWARD, FRESH, 0.05,
                     primary=False))
    return rows + [bits(f"soft targets against alone on the same 400, {units} units", SOFT | {"units": units},
                        ALONE | {"units": units}, 0.5, primary=False) for units in (10, 40)]


STUDY = studies.Study("language", arms, run, claims, datasets=("grammar",), keys=_KEYS)
