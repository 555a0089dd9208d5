"""A small language whose truth is known: a grammar with exact next-word probabilities (lesson 11).

    the red cat that the foxes follow likes some kings slowly .

The main verb agrees with the first noun; nouns, verbs and adverbs prefer certain others. Every word leads from a
state to one next state, which gives the probability of the next word. Sentences are LongTensors N×L of word numbers:
START, words, full stop, PADDING. As in any causal model, position t predicts the token at t + 1. V = len(WORDS).
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, stateless_random
from distill_utils.losses import as_float32, never_negative

_NOUNS = ("cat cats", "dog dogs", "fox foxes", "king kings", "queen queens", "bird birds", "bear bears",
          "wolf wolves", "child children", "farmer farmers")  # singular, plural
_TRANSITIVE = ("sees see", "likes like", "follows follow", "fears fear", "helps help", "finds find")
_INTRANSITIVE = ("runs run", "sleeps sleep", "sings sing", "waits wait", "falls fall", "laughs laugh")
_ADJECTIVES, _ADVERBS = ("red", "old", "young", "small", "brave", "lazy"), ("slowly", "often", "here", "alone")
_DETERMINERS = {"the": (0, 1), "a": (0,), "some": (1,)}  # and the numbers that each allows
NOUNS, TRANSITIVE, INTRANSITIVE = (" ".join(words).split() for words in (_NOUNS, _TRANSITIVE, _INTRANSITIVE))
WORDS = (".", *_DETERMINERS, "that", *_ADJECTIVES, *_ADVERBS, *NOUNS, *TRANSITIVE, *INTRANSITIVE)
START, PADDING = len(WORDS), -100  # PADDING is what torch's cross-entropy and Hugging Face's labels ignore
LONGEST = 13  # words, the full stop included
_ID = {word: i for i, word in enumerate(WORDS)}


def _continuations(state: tuple) -> Iterator[tuple[str, float, tuple]]:
    """The words that may follow in a state, each with its probability and the state after it."""
    place, *known = state
    if place in ("subject", "object"):
        for word, p in zip(_DETERMINERS, (0.5, 0.25, 0.25), strict=True):
            yield word, p, (f"{place} noun", *known, word, "")
    elif place in ("subject noun", "object noun"):
        *verb, determiner, adjective = known
        if not adjective:
            for word, p in _preferred(_ADJECTIVES, *verb):
                yield word, 0.4 * p, (place, *verb, determiner, word)
        for noun, p in _preferred(_NOUNS, *verb, adjective):
            for number in (numbers := _DETERMINERS[determiner]):
                after = ("adverb", *verb) if verb else ("after subject", noun, number)
                yield noun.split()[number], p * (1.0 if adjective else 0.6) / len(numbers), after
    elif place == "after subject":
        yield "that", 0.35, ("clause", *known)
        yield from ((word, 0.65 * p, after) for word, p, after in _continuations(("main verb", *known)))
    elif place == "clause":
        yield "the", 1.0, ("clause noun", *known)
    elif place == "clause noun":
        for noun, p in _preferred(_NOUNS, "that"):
            yield from ((noun.split()[i], p / 2, ("clause verb", *known, noun, i)) for i in (0, 1))
    elif place == "clause verb":
        *subject, noun, number = known
        for word, p in _preferred(_TRANSITIVE, noun):
            yield word.split()[number], p, ("main verb", *subject)
    elif place == "main verb":
        for word, p in _preferred(_TRANSITIVE + _INTRANSITIVE, known[0]):
            yield word.split()[known[1]], p, ("object" if word in _TRANSITIVE else "adverb", word)
    elif place == "adverb":  # of a verb; of none after an adverb
        yield ".", 0.5 if known else 1.0, ("end",)
        yield from ((word, 0.5 * p, ("adverb",)) for word, p in _preferred(_ADVERBS, *known) if known)


@functools.cache
def _preferred(words: Sequence[str], *context: str) -> list[tuple[str, float]]:
    """Words with their probabilities in a context, drawn once and for all."""
    stream, index = f"{' '.join(words)} after {' '.join(context)}", torch.zeros(1, dtype=torch.long)
    probabilities = (1.3 * stateless_random.normal(0, stream, index, len(words))[0].double()).softmax(0)
    return list(zip(words, probabilities.tolist(), strict=True))


@functools.cache
def _table() -> tuple[Tensor, Tensor, int]:
    """Of each state the probability of each word, S×V, and the next state, S×(V + 1), whose last column is for START
    and PADDING; and the state after the full stop. State 0 is the first, the last one that after a wrong word."""
    states: list[tuple] = [("subject",)]
    number, arcs = {("subject",): 0}, []
    for state in states:  # the list grows while it is read
        for word, p, after in _continuations(state):
            if after not in number:
                number[after] = len(states)
                states.append(after)
            arcs.append((number[state], _ID[word], p, number[after]))
    wrong, end = len(states), number[("end",)]
    probability = torch.zeros(wrong + 1, len(WORDS), dtype=torch.float64)
    following = torch.full((wrong + 1, len(WORDS) + 1), wrong)
    following[0, START], following[end, START] = 0, end
    for before, token, p, then in arcs:
        probability[before, token], following[before, token] = p, then
    return probability, following, end


def _states(tokens: Tensor, state: Tensor | None = None) -> Tensor:
    """The state after each token, N×L, from a state of each sentence (default: the first)."""
    _validate.tensors(tokens=(tokens, "int64 N×L"))
    found = [torch.zeros(len(tokens), dtype=torch.long) if state is None else state]
    for token in tokens.T:
        found.append(_table()[1][found[-1], token.where(token >= 0, START)])
    return torch.stack(found[1:], 1)


def next_word(tokens: Tensor) -> Tensor:
    """The true probability of each word after each position, float64 N×L×V; 0 after the end or a wrong word."""
    return _table()[0][_states(tokens)]


def log_probability(tokens: Tensor) -> Tensor:
    """The exact log-probability of each sentence in nats, float64 N; -inf unless it is grammatical and complete."""
    p = next_word(tokens)[:, :-1].gather(2, tokens[:, 1:, None].clamp(min=0))[..., 0]
    log_p = p.where(tokens[:, 1:] != PADDING, 1.0).log().sum(1)
    return log_p.where(_states(tokens)[:, -1] == _table()[2], -math.inf)


def encode(sentences: str | Sequence[str]) -> Tensor:
    """Sentences, or beginnings of them, as tokens N×L. Spaces separate the words and the full stop. Raises ValueError
    for no sentence, a word outside the vocabulary, or more than LONGEST words."""
    rows = [sentence.split() for sentence in ([sentences] if isinstance(sentences, str) else sentences)]
    if not rows:
        raise ValueError("sentences must contain at least one sentence, got none")
    for row in rows:
        if unknown := [word for word in row if word not in _ID]:
            raise ValueError(f"{unknown[0]!r} is not in the vocabulary: use {' '.join(WORDS)}")
        if len(row) > LONGEST:
            raise ValueError(f"a sentence must have at most {LONGEST} words, the full stop included, got {len(row)}")
    most = max(map(len, rows))
    return torch.tensor([[START, *(_ID[word] for word in row), *[PADDING] * (most - len(row))] for row in rows])


def decode(tokens: Tensor) -> list[str]:
    """The words of each sentence of N×L tokens, joined by spaces."""
    return [" ".join(WORDS[token] for token in row if 0 <= token < START) for row in tokens.tolist()]


def sample(count: int, seed: int = 0) -> Tensor:
    """Sentences of the language, N×(LONGEST + 1). Sentence i depends on (seed, i) alone."""
    def step(token, state):
        state = _states(token[:, None], state)[:, 0]
        return _table()[0][state], state
    return _draw(step, count, seed, "sentences")


class LanguageModel(nn.Module):
    """A recurrent network: embedding, one GRU, and the logits of the next word; N×L tokens -> N×L×V (lesson 11)."""
    def __init__(self, units: int):
        super().__init__()
        self.embedding = nn.Embedding(START + 1, units // 2)
        self.gru = nn.GRU(units // 2, units, batch_first=True)
        self.head = nn.Linear(units, START)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens.clamp(min=0)))[0])


@torch.no_grad()
def generate(model: LanguageModel, count: int, seed: int) -> Tensor:
    """Sentences drawn from a model, N×(LONGEST + 1), cut where they are longer (lesson 11)."""
    def step(token, hidden):
        output, hidden = model.gru(model.embedding(token.clamp(min=0))[:, None], hidden)
        return model.head(output[:, 0]).softmax(1), hidden
    return _draw(step, count, seed, "generated")  # not the draws that made the training sentences


def _draw(step: Callable, count: int, seed: int, stream: str) -> Tensor:
    """step(last token of each sentence, memory) returns the probabilities of the next word, N×V, and the memory."""
    _validate.number("count", count, 1, whole=True)
    uniform = stateless_random.uniform(seed, stream, torch.arange(count), LONGEST)
    tokens, memory = torch.full((count, LONGEST + 1), PADDING), None
    tokens[:, 0] = START
    for t in range(LONGEST):
        probability, memory = step(tokens[:, t], memory)
        total = probability.double().cumsum(1)
        word = torch.searchsorted(total, uniform[:, t, None] * total[:, -1:], right=True)[:, 0].clamp(max=START - 1)
        tokens[:, t + 1] = word.where((tokens[:, t] != PADDING) & (tokens[:, t] != _ID["."]), PADDING)
    return tokens


def word_loss(student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor, temperature: float = 1.0, *,
              reverse: bool = False) -> Tensor:
    """T²·KL(teacher ‖ student) of the next word at temperature T, the mean over all words of the batch (lesson 11).

    logits: float N×L×V of two causal models, the teacher's without gradient; tokens: N×L, PADDING where there is no
    word; reverse: KL(student ‖ teacher), as Gu et al. (2024) use it. Raises ValueError for other shapes, different
    vocabularies, or no word to predict."""
    words = [logits.shape[-1] for logits in (student_logits, teacher_logits)]
    if words[0] != words[1]:
        raise ValueError(f"student and teacher must have the same vocabulary, got {words[0]} and {words[1]} words")
    _validate.tensors(student_logits=(student_logits, "float N×L×V"), teacher_logits=(teacher_logits, "float N×L×V"),
                      tokens=(tokens, "int64 N×L"))
    kept = tokens[:, 1:] != PADDING
    if not kept.any():
        raise ValueError("tokens must contain a word to predict, got only padding")
    log_q, log_p = (F.log_softmax(as_float32(z[:, :-1][kept]) / temperature, 1)
                    for z in (student_logits, teacher_logits.detach()))
    log_p, log_q = (log_q, log_p) if reverse else (log_p, log_q)
    loss = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return never_negative(loss, student_logits, teacher_logits)
