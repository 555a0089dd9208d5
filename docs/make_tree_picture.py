"""Makes docs/readable-tree.png: the distilled soft decision tree of notebook 09, hardened, with one digit on its way.

Run: python docs/make_tree_picture.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from distill_utils import _store, hard_tree, plots, recipes, tree_plot
from distill_utils.studies import readable_student as study

PICTURE = Path(__file__).with_name("readable-tree.png")
ARM, IMAGE = {"tree": "soft", "depth": 4, "target": "distilled", "filters": "sparse"}, 3


def main() -> None:
    image_data = recipes.dataset("digits")
    seen = torch.cat([image_data.train.images, image_data.transfer.images])
    tree = hard_tree.harden(recipes.load_or_train(study.recipe(ARM, 0, "digits")).model, seen)
    image = image_data.test.images[IMAGE]
    fig = tree_plot.draw_tree(tree, image_data.classes, (8, 8), image=image)
    plots.draw_image(fig.axes[0].inset_axes([0.0, 0.8, 0.09, 0.2]), image)
    with plt.rc_context(plots.STYLE), _store.atomic(PICTURE) as temporary:
        fig.savefig(temporary, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
