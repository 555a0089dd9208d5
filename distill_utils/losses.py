"""The losses of distillation, on logits.

Logits are N×C; labels LongTensor N. Soft targets are the teacher's probabilities at a temperature T,
softmax(z / T). KL is always KL(teacher ‖ student), means are over the batch, and no gradient reaches the teacher.
The field weighs the two parts both ways: here alpha is the weight of the *soft* part.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def hard_label_loss(student_logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against the labels, batch mean, at least 0.

    smoothing: share of each target spread evenly over all classes (Szegedy et al. 2016). Raises ValueError where a
    label is no class, the unlabelled -1 of a transfer set included.
    """
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
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, found {temperature}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student and teacher logits must have one shape N×C: found "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    log_p = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
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


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= logits.shape[1]:
        found = low if low < 0 else high
        hint = " (-1 marks an image without a label: use soft targets alone, alpha = 1)" if found == -1 else ""
        raise ValueError(f"label {found} is no class: labels go from 0 to {logits.shape[1] - 1}{hint}")
