"""distill_utils: the support package of a notebook series on knowledge distillation.

For all modules: N images, C classes, V views, H×W pixels. Images are float32 N×channels×H×W in [0, 1]; losses and
measures take logits, N×C, never probabilities; labels are LongTensor N, -1 where there is none; masks are bool N×H×W.
Arguments of another shape or kind raise ValueError.

The folders are layers, and imports run one way: the modules here <- explain/ <- studies/ <- commands/.
"""

from distill_utils import _translate

_translate.translate_errors()
