"""The losses of distillation, on logits.

Logits are N×C; labels LongTensor N. Soft targets are the teacher's probabilities at a temperature T,
softmax(z / T). KL is always KL(teacher ‖ student), means are over the batch, and no gradient reaches the teacher.
The field weighs the two parts both ways: here alpha is the weight of the *soft* part.

Of logits that are not finite, or too large for the sums, a loss may be NaN: training.fit looks at it and names the
step. To look at every logit here would cost more than the loss. All else that does not fit raises ValueError.
"""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_utils import _validate


def hard_label_loss(student_logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against the labels, batch mean, at least 0.

    smoothing: share of each target spread evenly over all classes (Szegedy et al. 2016). Raises ValueError where a
    label is no class, the unlabelled -1 of a transfer set included.
    """
    _validate.number("smoothing", smoothing, 0, 1)
    _check_labels(student_logits, labels)
    return F.cross_entropy(student_logits, labels, label_smoothing=smoothing)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Hinton's soft-target loss, T²·KL(teacher ‖ student) at temperature T, batch mean, at least 0.

    L = T²/N · Σₙ Σᵢ pᵢ (log pᵢ - log qᵢ) with p = softmax(z_t / T), q = softmax(z_s / T); Hinton, Vinyals and Dean
    (2015). It is 0 exactly when the distributions agree, is unchanged when a constant is added to a row of either
    logits, and its gradient is T (q - p) / N. T² keeps that gradient's size as T grows: for T → ∞ the loss tends to
    ‖centred z_s - centred z_t‖² / 2C. PyTorch's default reduction of kl_div would divide by C as well.
    Raises ValueError for a temperature that is not above 0 or logits of different shapes.
    """
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """(1 - alpha)·cross-entropy against the labels + alpha·soft-target loss, batch mean.

    alpha in [0, 1]: 0 is training alone, 1 uses no label, so labels may then be -1 (unlabelled). Raises ValueError
    as its parts do, or for another alpha.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the weight of the soft part and lies in [0, 1], found {alpha}")
    soft = soft_target_loss(student_logits, teacher_logits, temperature)
    if alpha == 1:
        return soft
    return (1 - alpha) * hard_label_loss(student_logits, labels) + alpha * soft


def group_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    groups: Tensor,
    temperature: float,
    between: float = 1.0,
    within: float | Tensor = 1.0,
    decoupled: bool = False,
) -> Tensor:
    """The soft-target loss, split into "which group?" and "which member of the group?", each with its own weight.

    L = T²/N · Σₙ [between · KL(P ‖ Q) + Σ_g within_g · m_g · KL(p_·|g ‖ q_·|g)], where P_g and Q_g are the teacher's
    and the student's mass of group g, p_i|g = p_i / P_g, and m_g = P_g, or 1 where decoupled. With both weights 1
    and m_g = P_g it is soft_target_loss exactly, whatever the groups. groups: LongTensor C or N×C, the group of each
    class, counted from 0 (see partition, target_groups, primary_groups); within: a number, or one per group. A group
    of one class has no within part. Raises ValueError for a class without a group.
    """
    _validate.number("between", between, 0)
    if not isinstance(within, Tensor):
        _validate.number("within", within, 0)
    outer, inner = group_kd_parts(student_logits, teacher_logits, groups, temperature, decoupled=decoupled)
    if isinstance(within, Tensor):
        _validate.tensors(within=(within, f"float {len(inner)}"))
    return between * outer + (within * inner).sum()


def group_kd_parts(
    student_logits: Tensor, teacher_logits: Tensor, groups: Tensor, temperature: float, *, decoupled: bool = False
) -> tuple[Tensor, Tensor]:
    """The parts of group_kd_loss before weighting: T²·KL between groups, a scalar, and T²·m_g·KL within each group,
    one value per group; batch means."""
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    groups, count = _checked_groups(groups, log_p)
    log_mass_p, log_mass_q = (_log_mass(z, groups, count) for z in (log_p, log_q))  # N×C: of each class's own group
    outer = (log_p.exp() * (log_mass_p - log_mass_q)).sum(1).mean()
    weight = (log_p - log_mass_p).exp() if decoupled else log_p.exp()
    inner = weight * ((log_p - log_mass_p) - (log_q - log_mass_q))
    per_group = inner.new_zeros(len(inner), count).scatter_add(1, groups, inner).mean(0)
    return outer * temperature**2, per_group * temperature**2


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled knowledge distillation (Zhao et al. 2022): group_kd_loss with the groups {label}, {all others}.

    alpha weighs "the label or not?" (TCKD), beta "which of the others?" (NCKD), which no longer fades where the
    teacher is sure of the label. The paper adds cross-entropy and a warm-up of the first twelfth of training; both
    are the caller's.
    """
    _validate.number("alpha", alpha, 0)
    _validate.number("beta", beta, 0)
    _check_labels(student_logits, labels)
    groups = target_groups(labels, student_logits.shape[1])
    return group_kd_loss(student_logits, teacher_logits, groups, temperature, alpha, beta, decoupled=True)


def logit_standardised_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """soft_target_loss on logits standardised per row (Sun et al. 2024): (z - mean z) / sd z.

    The student need not reach the teacher's scale: its loss is the same for z and a·z + b with a > 0, up to the 1e-7
    in the denominator. The paper takes T = 2 and weights it 9 : 0.1 against cross-entropy. One class has no standard
    deviation: raises ValueError.
    """
    _softened(student_logits, teacher_logits, temperature)
    _validate.number("the number of classes", student_logits.shape[1], 2)

    def standardised(z):
        return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)

    return soft_target_loss(standardised(student_logits), standardised(teacher_logits), temperature)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, inter: float = 1.0, intra: float = 1.0
) -> Tensor:
    """DIST (Huang et al. 2022): T² · [inter · (1 - mean row correlation) + intra · (1 - mean column correlation)].

    Pearson correlations of the softened probabilities, over the classes of an image (inter) and over the images of a
    class (intra): relations are matched, not values. The column part depends on which images share a batch. What does
    not vary correlates with nothing and counts as 0, equal logits or not: every column of one image alone (its part
    is the constant T² · intra), or of a class that softmax gives exactly 0 in every image.
    """
    _validate.number("inter", inter, 0)
    _validate.number("intra", intra, 0)
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    q, p = log_q.exp(), log_p.exp()

    def uncorrelated(a, b):
        a, b = (z - z.mean(1, keepdim=True) for z in (a, b))
        return 1 - F.cosine_similarity(a, b, dim=1).mean()

    return temperature**2 * (inter * uncorrelated(q, p) + intra * uncorrelated(q.T, p.T))


def partition(members: list[list[int]], num_classes: int) -> Tensor:
    """The group of each class, LongTensor C, from lists of classes, one a group.

    Raises ValueError, naming the classes, unless every class is in exactly one group.
    """
    _validate.number("num_classes", num_classes, 1, whole=True)
    count = Counter(i for group in members for i in group)
    for fault, names in {
        "are no classes": [i for i in count if not 0 <= i < num_classes],
        "are in more than one group": [i for i, times in count.items() if times > 1],
        "are without a group": [i for i in range(num_classes) if i not in count],
    }.items():
        if names:
            shown = ", ".join(map(str, sorted(names)))
            raise ValueError(f"groups must be a partition of the classes 0 to {num_classes - 1}: {shown} {fault}")
    groups = torch.empty(num_classes, dtype=torch.long)
    for g, group in enumerate(members):
        groups[group] = g
    return groups


def target_groups(labels: Tensor, num_classes: int) -> Tensor:
    """Per image the groups {label} = 0 and {all other classes} = 1, N×C."""
    _validate.tensors(labels=(labels, "int64 N"))
    _validate.number("num_classes", num_classes, 1, whole=True)
    _check_classes(labels, num_classes)
    return (torch.arange(num_classes, device=labels.device) != labels[:, None]).long()


def primary_groups(teacher_logits: Tensor, temperature: float, mass: float) -> Tensor:
    """Per image the groups of Grouped KD (Zhao et al. 2023), N×C: 0 for the fewest classes that hold at least
    `mass` of the teacher's softened probability together, 1 for the tail."""
    _validate.tensors(teacher_logits=(teacher_logits, "float N×C"))
    _validate.temperature(temperature)
    if not 0 < mass < 1:
        raise ValueError(f"mass is a share of the teacher's probability in (0, 1), found {mass}")
    p, order = (teacher_logits.detach() / temperature).softmax(1).sort(dim=1, descending=True, stable=True)
    before = p.cumsum(1) - p
    in_tail = ((before >= mass) & (before > 0)).long()  # the classes before it hold enough
    return torch.empty_like(in_tail).scatter(1, order, in_tail)


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log q of the student and log p of the teacher at a temperature, N×C each; no gradient to the teacher."""
    _validate.temperature(temperature)
    _validate.tensors(student_logits=(student_logits, "float N×C"))
    _validate.tensors(teacher_logits=(teacher_logits, "float N×C"))
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student and teacher logits must have one shape N×C: found "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    return log_q, F.log_softmax(teacher_logits.detach() / temperature, dim=1)


def _log_mass(log_p: Tensor, groups: Tensor, count: int) -> Tensor:
    """log of the mass of each class's own group, N×C, by log-sum-exp: it never divides by an underflown mass."""
    largest = log_p.new_full((len(log_p), count), -math.inf).scatter_reduce(1, groups, log_p.detach(), "amax")
    largest = largest.gather(1, groups)  # N×C
    total = log_p.new_zeros(len(log_p), count).scatter_add(1, groups, (log_p - largest).exp())
    return total.gather(1, groups).log() + largest


def _checked_groups(groups: Tensor, log_p: Tensor) -> tuple[Tensor, int]:
    """groups as N×C and how many there are."""
    n, c = log_p.shape
    _validate.tensors(groups=(groups, "int64 " + ("C" if getattr(groups, "ndim", 1) == 1 else "N×C")))
    if groups.shape not in ((c,), (n, c)):
        raise ValueError(
            f"groups must be a LongTensor of the group of each class, of shape ({c},) or ({n}, {c}): found "
            f"{groups.dtype} of shape {tuple(groups.shape)}"
        )
    if int(groups.min()) < 0:
        without = (groups < 0).nonzero()[0, -1]
        raise ValueError(f"class {int(without)} has no group: groups count from 0, found {int(groups.min())}")
    if int(groups.max()) >= 100 * c:  # gaps are harmless, but every number up to the last takes its place
        raise ValueError(f"groups of {c} classes are counted from 0: found group {int(groups.max())}")
    return groups.expand(n, c), int(groups.max()) + 1


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    _validate.tensors(student_logits=(logits, "float N×C"), labels=(labels, "int64 N"))
    _check_classes(labels, logits.shape[1])


def _check_classes(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        found = low if low < 0 else high
        hint = " (-1 marks an image without a label: use soft targets alone, alpha = 1)" if found == -1 else ""
        raise ValueError(f"label {found} is no class: labels go from 0 to {num_classes - 1}{hint}")
