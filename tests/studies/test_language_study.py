"""The measures of the study of language: the truth itself gets full marks, a wrong rule of agreement none."""

import pytest
import torch

from distill_utils import language
from distill_utils.studies import language as study
from distill_utils.training import Schedule


def truth(tokens):
    return language.next_word(tokens).clamp(min=1e-30).log().float()


def nearest_noun(tokens):
    """The truth after the same beginnings with a subject of the other number."""
    other = tokens.clone()
    first = language.WORDS.index(language.NOUNS[0])
    other[:, 2] = first + (tokens[:, 2] - first) // 2 * 2 + (tokens[:, 2] - first + 1) % 2
    return truth(other)


def test_the_truth_has_no_excess_bits_and_no_errors_and_accepts_itself():
    tokens = language.sample(200, 1)
    assert study.excess_bits(truth, tokens) == pytest.approx(0, abs=1e-4)
    assert study.grammatical(tokens) == 1
    assert study.attractor_error(truth) == pytest.approx(0, abs=1e-6)
    assert study.acceptance(truth, truth, tokens) == pytest.approx(1, abs=1e-5)


def test_excess_bits_count_a_halved_probability_once_per_sentence():
    def hesitant(tokens):  # gives half of its probability to a word that never follows the first
        p = language.next_word(tokens)
        p[:, 0] = p[:, 0] / 2
        p[:, 0, language.WORDS.index("that")] = 0.5
        return p.clamp(min=1e-30).log().float()

    assert study.excess_bits(hesitant, language.sample(200, 1)) == pytest.approx(1, abs=1e-4)


def test_a_model_that_agrees_with_the_nearest_noun_is_always_wrong_across_an_attractor():
    assert study.attractor_error(nearest_noun) == pytest.approx(1, abs=1e-6)
    tokens = study.beginnings()
    assert len(tokens) == len(study.beginnings(attractor=False)) == 1200
    assert len(set(language.decode(tokens))) == 1200
    assert language.decode(tokens[:1]) == ["the cat that the cats see"]
    assert language.decode(study.beginnings(attractor=False)[:1]) == ["the cat that the cat sees"]
    assert bool((language.next_word(tokens)[:, -1].sum(1) > 0.99).all()), "all are grammatical"


def test_speculative_decoding_accepts_as_often_as_both_distributions_overlap():
    teacher, student = (torch.tensor(p).log() for p in ([0.5, 0.3, 0.2], [0.1, 0.3, 0.6]))
    tokens = torch.tensor([[language.START, 1, 0, language.PADDING]])

    def constant(logits):
        return lambda tokens: logits.expand(*tokens.shape, 3)

    assert study.acceptance(constant(student), constant(teacher), tokens) == pytest.approx(0.6)


def test_of_two_points_of_training_that_are_equally_good_the_first_is_taken(monkeypatch):
    monkeypatch.setattr(study, "SIZES", {"train": 20, "validation": 20, "test": 20})
    monkeypatch.setattr(study, "SCHEDULES", dict.fromkeys(study.SCHEDULES, Schedule(2, 10)))
    first = study.trained(study.ALONE, quiet=True).model.state_dict()
    monkeypatch.setattr(study, "excess_bits", lambda model, tokens: 1.0)
    monkeypatch.setattr(study, "UNITS", study.UNITS | {"teacher": 2})  # another key
    again = study.trained(study.ALONE, quiet=True)
    assert again.curve["excess_bits"] == [1.0, 1.0]
    assert not all(torch.equal(first[name], x) for name, x in again.model.state_dict().items())


def test_an_error_is_read_where_the_excess_bits_first_fell_to_a_level():
    curve = {"excess_bits": [8.0, 4.0, 2.0, 3.0, 1.0], "attractor_error": [0.5, 0.4, 0.2, 0.9, 0.1]}
    assert study.error_at(curve, 4.0) == pytest.approx(0.4)
    assert study.error_at(curve, 3.0) == pytest.approx(0.3)
    assert study.error_at(curve, 9.0) == 0.5
    assert study.error_at(curve, 1.0) == pytest.approx(0.1)


def test_recorded_logits_of_words_are_looked_up_by_sentence():
    tokens = language.sample(40, 0)
    recorded = torch.randn(*tokens.shape, len(language.WORDS))

    def loss(model, words, answers):
        assert answers.shape[1:] == recorded.shape[1:]
        return language.word_loss(model(words), answers, words)

    schedule = Schedule(steps=2, batch_size=8)
    history = study.fit(language.LanguageModel(4), tokens, loss, schedule, teacher=[recorded], quiet=True)
    assert len(history["loss"]) == 2
