"""Distillation losses on logits.

Logits are N×C, labels are a LongTensor N. Soft targets are the teacher's probabilities at temperature T,
softmax(z / T). KL is always KL(teacher ‖ student), a loss is a batch mean, and no gradient reaches the teacher.
Half precision is converted to float32: near the teacher a loss is a small difference of large numbers.
"""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import _validate

_HALF = (torch.float16, torch.bfloat16)


def hard_label_loss(student_logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, batch mean, at least 0 (lesson 01).

    smoothing: the share of each target that is spread over all classes (Szegedy et al. 2016). Raises ValueError for
    a label out of range, including the -1 of unlabelled images.
    """
    _check_labels(labels, student_logits.shape[1])
    return F.cross_entropy(as_float32(student_logits), labels, label_smoothing=smoothing)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Hinton's soft-target loss, T²·KL(teacher ‖ student) at temperature T, batch mean, at least 0 (lesson 02).

    L = T²/N · Σₙ Σᵢ pᵢ (log pᵢ - log qᵢ) with p = softmax(z_t / T), q = softmax(z_s / T); Hinton, Vinyals and Dean
    (2015). It is 0 exactly when the distributions agree, and its gradient is T (q - p) / N. T² keeps the size of that
    gradient as T grows: for T → ∞ the loss tends to ‖centred z_s - centred z_t‖² / 2C. Raises ValueError for a
    temperature outside [0.001, 1e6] or logits of different shapes.
    """
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    # The default reduction of kl_div, "mean", would also divide by the number of classes.
    loss = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
    return never_negative(loss, student_logits, teacher_logits)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float,
                      alpha: float) -> Tensor:
    """(1 - alpha) · hard_label_loss + alpha · soft_target_loss, with alpha in [0, 1] (lesson 02).

    Papers disagree about which term alpha weights. Images without a label (-1) have a soft target only: the hard part
    is the mean over the others, and 0 where there are none. Raises ValueError for another alpha, or as its parts do.
    """
    _validate.number("alpha, the weight of the soft targets,", alpha, 0, 1)
    soft = soft_target_loss(student_logits, teacher_logits, temperature)
    labelled = labels != -1
    if alpha == 1 or not labelled.any():
        return alpha * soft
    return (1 - alpha) * hard_label_loss(student_logits[labelled], labels[labelled]) + alpha * soft


def group_kd_loss(student_logits: Tensor, teacher_logits: Tensor, groups: Tensor, temperature: float,
                  between: float = 1.0, within: float | Tensor = 1.0, decoupled: bool = False) -> Tensor:
    """The soft-target loss, split into "which group?" and "which member of the group?", weighted apart (lesson 07).

    L = T²/N · Σₙ [between · KL(P ‖ Q) + Σ_g within_g · m_g · KL(p_·|g ‖ q_·|g)], where P_g and Q_g are the
    probabilities of group g for teacher and student, p_i|g = p_i / P_g, and m_g = P_g, or 1 if decoupled. With both
    weights 1 and m_g = P_g it equals soft_target_loss for any grouping. groups: LongTensor C or N×C, the number of
    each class's group, from 0 (see partition, target_groups, primary_groups); within: one weight, or one per group.
    Raises ValueError for groups of another shape or range.
    """
    outer, inner = group_kd_parts(student_logits, teacher_logits, groups, temperature, decoupled=decoupled)
    return between * outer + (within * inner).sum()


def group_kd_parts(student_logits: Tensor, teacher_logits: Tensor, groups: Tensor, temperature: float, *,
                   decoupled: bool = False) -> tuple[Tensor, Tensor]:
    """The parts of group_kd_loss before weighting, batch means (lesson 07): T²·KL between groups, a scalar, and
    T²·m_g·KL within each group, one value per group; 0 for a group of one class."""
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    groups, count = _check_groups(groups, log_p)
    log_mass_q, log_mass_p = (_log_group_mass(log_probs, groups, count) for log_probs in (log_q, log_p))  # N×C each
    outer = (log_p.exp() * (log_mass_p - log_mass_q)).sum(1).mean()
    weight = (log_p - log_mass_p).exp() if decoupled else log_p.exp()
    inner = weight * ((log_p - log_mass_p) - (log_q - log_mass_q))
    per_group = inner.new_zeros(len(inner), count).scatter_add(1, groups, inner).mean(0)
    outer, inner = (never_negative(part, student_logits, teacher_logits) for part in (outer, per_group))
    return outer * temperature**2, inner * temperature**2


def dkd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float = 1.0,
             beta: float = 8.0) -> Tensor:
    """Decoupled knowledge distillation (Zhao et al. 2022; lesson 07): group_kd_loss with {label}, {other classes}.

    alpha weights "the label or not?" (TCKD), beta "which of the others?" (NCKD); the second does not vanish where the
    teacher is confident. Left out: the paper's cross-entropy and warm-up.
    """
    groups = target_groups(labels, student_logits.shape[1])
    return group_kd_loss(student_logits, teacher_logits, groups, temperature, alpha, beta, decoupled=True)


def logit_standardised_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """soft_target_loss of logits standardised per row (Sun et al. 2024; lesson 07): (z - mean z) / sd z.

    The student need not match the scale of the teacher's logits: the loss is the same for z and a·z + b with a > 0.
    """
    def standardised(z):
        z = as_float32(z)
        return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)

    loss = soft_target_loss(standardised(student_logits), standardised(teacher_logits), temperature)
    return never_negative(loss, student_logits, teacher_logits)


def dist_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, inter: float = 1.0,
              intra: float = 1.0) -> Tensor:
    """DIST (Huang et al. 2022; lesson 07): T² · [inter · (1 - mean of row correlations) + intra · (… of columns)].

    Pearson correlations of the softened probabilities, over the classes of an image (inter) and over the images of a
    class (intra), so it depends on which images share a batch. A constant row or column has correlation 0.
    """
    def uncorrelated(a, b):
        a, b = (z - z.mean(1, keepdim=True) for z in (a, b))
        return 1 - F.cosine_similarity(a, b, dim=1).mean()

    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    q, p = log_q.exp(), log_p.exp()
    loss = temperature**2 * (inter * uncorrelated(q, p) + intra * uncorrelated(q.T, p.T))
    return never_negative(loss, student_logits, teacher_logits)


def partition(members: list[list[int]], num_classes: int) -> Tensor:
    """The group of each class, LongTensor C, from one list of classes per group (lesson 07).

    Raises ValueError, naming the classes, unless each is in exactly one group.
    """
    count = Counter(label for group in members for label in group)
    classes = range(num_classes)
    wrong = [label for label in sorted({*count, *classes}) if label not in classes or count[label] != 1]
    if wrong:
        raise ValueError(f"each of the {num_classes} classes must be in exactly one group, got wrong {wrong}")
    groups = torch.empty(num_classes, dtype=torch.long)
    for number, group in enumerate(members):
        groups[group] = number
    return groups


def target_groups(labels: Tensor, num_classes: int) -> Tensor:
    """The groups {label} = 0 and {other classes} = 1 of each image, LongTensor N×C (lesson 07)."""
    _check_labels(labels, num_classes)
    return (torch.arange(num_classes, device=labels.device) != labels[:, None]).long()


def primary_groups(teacher_logits: Tensor, temperature: float, mass: float) -> Tensor:
    """The groups of Grouped KD (Zhao et al. 2023; lesson 07) for each image, LongTensor N×C: 0 for the smallest set
    of classes to which the teacher gives at least `mass` of its softened probability, 1 for the others."""
    p = (as_float32(teacher_logits).detach() / temperature).softmax(1)
    p, order = p.sort(dim=1, descending=True, stable=True)
    before = p.cumsum(1) - p  # the probability of all classes that come earlier in the order
    in_tail = ((before >= mass) & (before > 0)).long()
    return torch.empty_like(in_tail).scatter(1, order, in_tail)


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log q of the student and log p of the teacher at a temperature, N×C each; no gradient to the teacher."""
    _validate.temperature(temperature)
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape or 0 in student_logits.shape:
        raise ValueError("student and teacher logits must have the same shape N×C, got "
                         f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}")
    log_q = F.log_softmax(as_float32(student_logits) / temperature, dim=1)
    return log_q, F.log_softmax(as_float32(teacher_logits).detach() / temperature, dim=1)


def as_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in _HALF else values


def never_negative(loss: Tensor, *logits: Tensor) -> Tensor:
    """The loss of half precision logits, raised to 0 where rounding made it negative, with its gradient."""
    return loss - loss.detach().clamp(max=0) if any(z.dtype in _HALF for z in logits) else loss


def _log_group_mass(log_p: Tensor, groups: Tensor, count: int) -> Tensor:
    """log of the probability of each class's own group, N×C. Log-sum-exp avoids division by a sum that is 0."""
    largest = log_p.new_full((len(log_p), count), -math.inf).scatter_reduce(1, groups, log_p.detach(), "amax")
    largest = largest.gather(1, groups)  # N×C
    total = log_p.new_zeros(len(log_p), count).scatter_add(1, groups, (log_p - largest).exp())
    return total.gather(1, groups).log() + largest


def _check_groups(groups: Tensor, log_p: Tensor) -> tuple[Tensor, int]:
    """groups as N×C, and their number."""
    n, c = log_p.shape
    if groups.shape not in ((c,), (n, c)):
        raise ValueError(f"groups must be of shape ({c},) or ({n}, {c}), got {tuple(groups.shape)}")
    low, high = torch.stack(groups.aminmax()).tolist()
    if low < 0 or high >= c:
        raise ValueError(f"groups of {c} classes must be in [0, {c - 1}], got {low} to {high}")
    return groups.expand(n, c), high + 1


def _check_labels(labels: Tensor, num_classes: int) -> None:
    low, high = torch.stack(labels.aminmax()).tolist()
    if low < 0 or high >= num_classes:
        label = low if low < 0 else high
        hint = ": -1 marks an unlabelled image, which only soft targets can use" if label == -1 else ""
        raise ValueError(f"label {label} is out of range for {num_classes} classes{hint}")
