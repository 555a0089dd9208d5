"""Measures of a trained classifier: accuracy, calibration, agreement with its teacher, and cost (lesson 01).

Everything but the cost is computed from recorded logits; half precision is converted to float32.
"""

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill_utils import _validate
from distill_utils._recorded import answer, confusion_counts
from distill_utils.data import ImageSet
from distill_utils.losses import as_float32
from distill_utils.training import eval_mode, logits


def evaluate(model: nn.Module, image_set: ImageSet, teacher: nn.Module | None = None) -> dict[str, float]:
    """Measure a classifier on a labelled image set (lesson 03).

    Returns the measures of score and, with a teacher, of compare; models are run in eval mode and put back into the
    mode they were in. Raises ValueError for an empty set, images without labels, or a pixel that is NaN or inf.
    """
    _validate.finite_images("image set", image_set.images)
    outputs = logits(model, image_set.images)
    scores = score(outputs, image_set.labels)
    if teacher is not None:
        scores |= compare(outputs, logits(teacher, image_set.images))
    return scores


def score(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Measures of logits N×C against labels N; raises ValueError for images without labels.

    accuracy: in [0, 1]; nll: mean negative log-likelihood in nats; ece: expected calibration error in [0, 1], the
    mean gap between confidence and accuracy over 15 bins of confidence (Guo et al. 2017).
    """
    bins, outputs = reliability(outputs, labels), as_float32(outputs)
    return {
        "accuracy": float((outputs.argmax(1) == labels).float().mean()),
        "nll": float(F.cross_entropy(outputs, labels)),
        "ece": float((bins["share"] * (bins["accuracy"] - bins["confidence"]).abs()).sum()),
    }


def compare(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """A student's logits against its teacher's, both N×C.

    agreement: the share of images for which both predict the same class; kl: mean KL(teacher ‖ student) in nats.
    """
    _validate.tensors(student_logits=(student_logits, "finite float N×C"),
                      teacher_logits=(teacher_logits, "finite float N×C"))
    student, teacher = as_float32(student_logits), as_float32(teacher_logits)
    kl = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    return {"agreement": float((student.argmax(1) == teacher.argmax(1)).float().mean()), "kl": float(kl)}


def reliability(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The reliability diagram of logits N×C (lesson 01).

    Returns for every non-empty bin the mean "confidence", the "accuracy" and the "share" of all images. The 15 bins
    have equal width and include their upper edge, as in Guo et al. (2017).
    """
    _check(outputs, labels)
    confidence, predicted = as_float32(outputs).softmax(1).max(1)
    place = (confidence * 15).ceil().long().clamp(1, 15) - 1
    count = torch.bincount(place, minlength=15)
    used = count > 0

    def mean(values):
        return (torch.bincount(place, values.double(), minlength=15) / count)[used]

    return {"confidence": mean(confidence), "accuracy": mean(predicted == labels), "share": count[used] / len(labels)}


# Which classes are confused


def confusions(outputs: Tensor, labels: Tensor) -> Tensor:
    """How often an image of class i is predicted as class j: LongTensor C×C of counts (lesson 01)."""
    _check(outputs, labels)
    return confusion_counts(outputs, labels)


def soft_confusions(outputs: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean softened prediction for each true class, C×C with rows that sum to 1 (lesson 07).

    It shows which classes look alike to a teacher that is almost always right. Raises ValueError for a class without
    images.
    """
    _check(outputs, labels)
    _validate.temperature(temperature)
    count = torch.bincount(labels, minlength=outputs.shape[1])
    if int(count.min()) == 0:
        raise ValueError(f"class {int(count.argmin())} has no images: its mean prediction is undefined")
    softened = (as_float32(outputs) / temperature).softmax(1)
    return softened.new_zeros(len(count), len(count)).index_add(0, labels, softened) / count[:, None]


def look_alikes(confusions: Tensor, groups: int) -> Tensor:
    """Group the classes that are confused with one another: LongTensor C, numbered by their first class (lesson 07).

    confusions: C×C, at least 0, such as counts or soft_confusions; the diagonal is ignored and both directions are
    added. Average linkage on the negative log, cut into `groups` groups. Raises ValueError where no class is ever
    confused with another.
    """
    _validate.tensors(confusions=(torch.as_tensor(confusions).double(), "finite float C×C"))
    _validate.number("groups", groups, 1, len(confusions), whole=True)
    both = (confusions.double() + confusions.T).fill_diagonal_(0).numpy()
    if both.min() < 0:
        raise ValueError("confusions must be at least 0")
    if both.max() == 0:
        raise ValueError("confusion matrix has no off-diagonal mass: no class is ever confused with another")
    distance = -np.log(both + 1e-3 * both[both > 0].min())
    tree = linkage(distance[np.triu_indices(len(both), 1)] - distance.min(), "average")
    found = fcluster(tree, groups, "maxclust")
    _, first, place = np.unique(found, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[place])


# Cost


def cost(model: nn.Module, images: Tensor) -> dict[str, int]:
    """What a model costs (lesson 04): parameters (count), flops (of the first of images, N×channels×H×W, counted by
    torch: a multiplication and an addition are two), and bytes (of the weights as a safetensors file; a shared weight
    counts once)."""
    with eval_mode(model), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            answer(model, images[:1])
    unique = {id(value): (name, value) for name, value in model.state_dict(keep_vars=True).items()}
    weights = {name: value.detach().contiguous() for name, value in unique.values()}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": counter.get_total_flops(), "bytes": len(safetensors.torch.save(weights)),
    }


def _check(outputs: Tensor, labels: Tensor) -> None:
    if isinstance(labels, Tensor) and (labels.numel() == 0 or (labels.dtype == torch.long and int(labels.min()) < 0)):
        raise ValueError("nothing to compare with: the image set is empty or has images without labels")
    _validate.tensors(outputs=(outputs, "finite float N×C"), labels=(labels, "int64 N"))
    if int(labels.max()) >= outputs.shape[1]:
        raise ValueError(f"label {int(labels.max())} is out of range for {outputs.shape[1]} classes")
