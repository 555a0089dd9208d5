"""The language: its probabilities are exact, samples follow them, and losses see words and nothing else."""

import math

import pytest
import torch
from torch.testing import assert_close

from distill_utils import _store, language, losses
from distill_utils.language import (
    LanguageModel,
    decode,
    encode,
    generate,
    log_probability,
    next_word,
    sample,
    word_loss,
)

SENTENCE = "the dogs that the cat sees run ."


def test_probabilities_sum_to_one_in_every_state_until_the_end():
    probability, following, end = language._table()
    total = probability.sum(1)
    going_on = torch.arange(len(total)) != end
    going_on[-1] = False  # after a wrong word
    assert_close(total, going_on.double())
    assert set(following[0].tolist()) > {0}


def test_samples_have_the_entropy_that_enumeration_gives_and_never_exceed_the_longest():
    probability, following, end = language._table()
    reached, entropy = torch.eye(1, len(probability), dtype=torch.float64)[0], 0.0
    for _ in range(language.LONGEST):
        entropy += float(reached @ torch.special.entr(probability).sum(1))
        flow = (reached[:, None] * probability).flatten()
        reached = torch.zeros_like(reached).index_add(0, following[:, : language.START].flatten(), flow)
    assert float(reached[end]) > 0, "some sentences are as long as the longest"
    assert float(reached.sum()) == pytest.approx(float(reached[end]), abs=1e-12), "and none is longer"
    surprise = -log_probability(sample(20_000, 1))
    assert float(surprise.mean()) == pytest.approx(entropy, abs=4 * float(surprise.std()) / math.sqrt(20_000))


def test_a_sentence_has_the_product_of_its_words():
    tokens = encode([SENTENCE, "a king falls ."])
    p = next_word(tokens)
    for row, words in enumerate([SENTENCE.split(), ["a", "king", "falls", "."]]):
        by_hand = sum(math.log(float(p[row, t, language.WORDS.index(word)])) for t, word in enumerate(words))
        assert float(log_probability(tokens)[row]) == pytest.approx(by_hand)
    total = sum(float(row.exp()) for row in log_probability(sample(3000, 2)).unique())
    assert 0 < total < 1, "different sentences share one"
    assert decode(tokens) == [SENTENCE, "a king falls ."]


@pytest.mark.parametrize("wrong", [
    "the dogs that the cat sees runs .", "the dogs that the cat see run .", "a dogs run .", "some dog runs .",
    "the dogs run", "the dogs run . .", "run .", "the red old dog runs .", ". .", "the dogs that the cat sees .",
])  # fmt: skip
def test_an_ungrammatical_or_unfinished_sentence_has_probability_zero(wrong):
    assert float(log_probability(encode(wrong))[0]) == -math.inf


def test_sentence_i_depends_on_the_seed_and_i_alone():
    assert torch.equal(sample(5, 3), sample(50, 3)[:5])
    assert not torch.equal(sample(5, 3), sample(5, 4))


def test_what_a_model_writes_is_not_drawn_with_the_numbers_that_drew_its_training_sentences(monkeypatch):
    drawn = []
    uniform = language.stateless_random.uniform
    monkeypatch.setattr(
        language.stateless_random, "uniform", lambda *given: drawn.append(given[1]) or uniform(*given)
    )
    sample(1)
    generate(LanguageModel(2), 1, 0)
    assert len(set(drawn)) == 2


def test_a_model_generates_from_its_own_distribution():
    model = LanguageModel(6)
    first = generate(model, 4000, 0)[:, 1]
    with torch.no_grad():
        expected = model(encode("the"))[0, 0].softmax(0)
    found = first.bincount(minlength=language.START) / 4000
    assert_close(found, expected, atol=0.02, rtol=0)
    tokens = generate(model, 50, 1)
    ended = (tokens == language.WORDS.index(".")).int().cumsum(1)
    assert bool((tokens[:, 1:][ended[:, :-1] > 0] == language.PADDING).all()), "nothing follows the full stop"


@pytest.mark.parametrize(("sentences", "message"), [
    ([], "must contain at least one sentence"), ("the zebra runs .", "'zebra' is not in the vocabulary: use . the"),
    ("the " * 14, "must have at most 13 words, the full stop included, got 14"),
])  # fmt: skip
def test_sentences_that_cannot_be_read_are_refused_in_one_sentence(sentences, message):
    with pytest.raises(ValueError, match=message):
        encode(sentences)


def pair():
    """Logits of student and teacher, and tokens of two sentences of different length."""
    tokens = encode([SENTENCE, "a king falls ."])
    random = torch.Generator().manual_seed(0)
    return *(torch.randn(*tokens.shape, len(language.WORDS), generator=random) for _ in range(2)), tokens


def test_the_loss_is_the_classifiers_loss_on_every_word_and_on_nothing_else():
    student, teacher, tokens = pair()
    rows = [(n, t) for n in range(2) for t in range(8) if tokens[n, t + 1] >= 0]
    words = [torch.stack([logits[n, t] for n, t in rows]) for logits in (student, teacher)]
    assert len(rows) == 12
    for temperature in (1.0, 4.0):
        expected = losses.soft_target_loss(*words, temperature)
        assert_close(word_loss(student, teacher, tokens, temperature), expected)
    assert_close(word_loss(student, teacher, tokens, reverse=True), losses.soft_target_loss(*words[::-1], 1.0))


def test_the_loss_of_half_precision_near_the_teacher_is_never_negative():
    student, _, tokens = pair()
    for seed in range(20):
        noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(seed))
        assert float(word_loss((student + 1e-6 * noise).bfloat16(), student.bfloat16(), tokens)) >= 0


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_and_the_last_position_have_no_influence_and_the_teacher_gets_no_gradient(reverse):
    student, teacher, tokens = pair()
    before = word_loss(student, teacher, tokens, reverse=reverse)
    for logits in (student, teacher):
        logits[1, 4:], logits[:, -1] = 50.0, -50.0
    assert_close(word_loss(student, teacher, tokens, reverse=reverse), before)
    word_loss(student.requires_grad_(), teacher.requires_grad_(), tokens, reverse=reverse).backward()
    used = student.grad.abs().sum(2) > 0
    assert torch.equal(used[:, :-1], tokens[:, 1:] != language.PADDING)
    assert teacher.grad is None


def test_other_vocabularies_shapes_and_a_batch_of_padding_are_refused():
    student, teacher, tokens = pair()
    with pytest.raises(ValueError, match="must have the same vocabulary, got 59 and 58 words"):
        word_loss(student, teacher[..., :-1], tokens)
    with pytest.raises(ValueError, match="tokens must be an int64 tensor N×L"):
        word_loss(student, teacher, tokens[:, 1:])
    with pytest.raises(ValueError, match="must contain a word to predict, got only padding"):
        word_loss(student, teacher, torch.full_like(tokens, language.PADDING))


def test_the_language_itself_does_not_change():
    assert _store.checksum({"sentences": sample(200, 0)})[:16] == "6df52a6c325a9986"
    assert float(log_probability(encode(SENTENCE))[0]) == pytest.approx(-17.855791720264506)


def test_a_transformer_with_padding_learns_from_the_words_alone():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=language.START + 1, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    gpt = transformers.GPT2LMHeadModel(config).eval()
    teacher = LanguageModel(4)

    def loss(tokens):
        logits = gpt(input_ids=tokens.clamp(min=0), attention_mask=(tokens >= 0).long()).logits
        return word_loss(logits[..., : language.START], teacher(tokens), tokens)

    tokens = encode([SENTENCE, "a king falls ."])
    wider = torch.nn.functional.pad(tokens, (0, 4), value=language.PADDING)
    assert_close(loss(wider), loss(tokens))
    each = [loss(encode(sentence)) for sentence in (SENTENCE, "a king falls .")]
    assert_close(loss(tokens), (8 * each[0] + 4 * each[1]) / 12)
    with pytest.raises(ValueError, match="must have the same vocabulary, got 60 and 59 words"):
        word_loss(gpt(input_ids=tokens.clamp(min=0)).logits, teacher(tokens), tokens)
