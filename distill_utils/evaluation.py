"""What a trained classifier is worth: how often it is right, how well it knows it, whom it follows, what it costs.

evaluate asks the model once for its logits and computes every measure from them. Calibration is
measured by the expected calibration error with 15 bins (Guo et al. 2017).
"""

import statistics
import time

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill_utils import _validate
from distill_utils.data import ImageSet
from distill_utils.training import eval_mode, logits


def evaluate(model: nn.Module, image_set: ImageSet, teacher: nn.Module | None = None) -> dict[str, float]:
    """Measure a classifier on a labelled image set.

    Returns accuracy in [0, 1]; nll, the mean negative log-likelihood in nats; ece, the expected calibration error in
    [0, 1]; with a teacher also agreement, the share of images where both choose the same class, and kl, the mean
    KL(teacher ‖ student) in nats. The model is put in eval mode for the measurement and left as it was.
    """
    scores = score(logits(model, image_set.images), image_set.labels)
    if teacher is not None:
        scores |= compare(logits(model, image_set.images), logits(teacher, image_set.images))
    return scores


def score(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """accuracy, nll and ece of logits N×C against labels N; raises ValueError for unlabelled images."""
    _check(outputs, labels)
    bins = reliability(outputs, labels)
    return {
        "accuracy": float((outputs.argmax(1) == labels).float().mean()),
        "nll": float(F.cross_entropy(outputs, labels)),
        "ece": float((bins["share"] * (bins["accuracy"] - bins["confidence"]).abs()).sum()),
    }


def compare(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """agreement in [0, 1] and kl in nats of a student's logits with its teacher's, both N×C."""
    _validate.tensors(student_logits=(student_logits, "finite float N×C"),
                      teacher_logits=(teacher_logits, "finite float N×C"))
    kl = F.kl_div(
        student_logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
    )
    return {
        "agreement": float((student_logits.argmax(1) == teacher_logits.argmax(1)).float().mean()),
        "kl": float(kl),
    }


def reliability(outputs: Tensor, labels: Tensor, *, bins: int = 15) -> dict[str, Tensor]:
    """The reliability diagram of logits N×C: per non-empty bin of confidence the mean "confidence", the "accuracy"
    there and the "share" of all images, each a tensor with one entry a bin.

    A bin holds its upper edge, as in Guo et al. (2017).
    """
    _check(outputs, labels)
    _validate.number("bins", bins, 1, whole=True)
    confidence, predicted = outputs.softmax(1).max(1)
    right = (predicted == labels).float()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(place, minlength=bins)
    used = count > 0

    def mean(values):
        return (torch.bincount(place, values.double(), minlength=bins) / count)[used]

    return {"confidence": mean(confidence), "accuracy": mean(right), "share": count[used] / len(labels)}


def confusions(outputs: Tensor, labels: Tensor) -> Tensor:
    """How often an image of class i was called j: LongTensor C×C of counts, rows are true classes."""
    _check(outputs, labels)
    count = outputs.shape[1]
    return torch.bincount(labels * count + outputs.argmax(1), minlength=count**2).view(count, count)


def cost(model: nn.Module, images: Tensor, *, repeats: int = 30) -> dict[str, float]:
    """What one prediction costs.

    images: at least one, N×channels×H×W, repeated as needed. Returns parameters (count), flops (of one image, by
    torch's own counter: a multiplication and an addition are two), bytes (the weights on disk), and latency_ms_1 and
    latency_ms_256, the median time of a batch of that size in milliseconds on this machine, now.
    """
    _validate.tensors(images=(images, "finite float N×channels×H×W"))
    _validate.number("repeats", repeats, 1, whole=True)
    with eval_mode(model), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(images[:1])
        latency = {f"latency_ms_{size}": _latency(model, images, size, repeats) for size in (1, 256)}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": counter.get_total_flops(),
        "bytes": size_on_disk(model),
        **latency,
    }


def size_on_disk(model: nn.Module) -> int:
    """Bytes of the weights as a safetensors file."""
    return len(safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()}))


def _latency(model: nn.Module, images: Tensor, size: int, repeats: int) -> float:
    batch = images[torch.arange(size) % len(images)].contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        model(batch)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])  # the first few pay for warming up


def soft_confusions(outputs: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean softened prediction per true class, C×C with rows of sum 1: what a confident teacher finds alike even
    where it is always right. Raises ValueError where a class has no image."""
    _check(outputs, labels)
    _validate.temperature(temperature)
    count = torch.bincount(labels, minlength=outputs.shape[1])
    if int(count.min()) == 0:
        raise ValueError(f"class {int(count.argmin())} has no image, so nothing is known of what it looks like")
    sums = outputs.new_zeros(len(count), len(count)).index_add(0, labels, (outputs / temperature).softmax(1))
    return sums / count[:, None]


def look_alikes(confusions: Tensor, groups: int) -> Tensor:
    """Group the classes that are mistaken for one another, LongTensor C, numbered by their first class.

    confusions: C×C, larger is more alike, such as counts or soft_confusions; only relations between different
    classes count, in both directions. Average linkage on the log of the mean of both directions, cut into `groups`.
    Raises ValueError where no class is ever mistaken.
    """
    _validate.tensors(confusions=(torch.as_tensor(confusions).double(), "finite float C×C"))
    _validate.number("groups", groups, whole=True)
    if not 1 <= groups <= len(confusions):
        raise ValueError(f"{len(confusions)} classes make 1 to {len(confusions)} groups, found {groups}")
    both = (confusions.double() + confusions.T).numpy()
    if both.min() < 0:
        raise ValueError("confusions must be at least 0")
    if len(both) == 1:
        return torch.zeros(1, dtype=torch.long)
    np.fill_diagonal(both, 0)
    if both.max() == 0:
        raise ValueError("confusion matrix has no off-diagonal mass: no class is ever mistaken for another")
    distance = -np.log(both + 1e-3 * both[both > 0].min())
    tree = linkage(distance[np.triu_indices(len(both), 1)] - distance.min(), "average")
    found = fcluster(tree, groups, "maxclust")
    _, first, place = np.unique(found, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[place])


def _check(outputs: Tensor, labels: Tensor) -> None:
    """Logits and a class for each: a network that is measured says something, and there is what it should say."""
    if isinstance(labels, Tensor) and (labels.numel() == 0 or (labels.dtype == torch.long and int(labels.min()) < 0)):
        raise ValueError("there is nothing to compare with: the image set is empty or has images without labels")
    _validate.tensors(outputs=(outputs, "finite float N×C"), labels=(labels, "int64 N"))
    if int(labels.max()) >= outputs.shape[1]:
        raise ValueError(f"label {int(labels.max())} is no class: labels go from 0 to {outputs.shape[1] - 1}")
