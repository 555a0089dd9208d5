"""distill_utils: the support package of a notebook series on knowledge distillation.

Said once for all modules: N images, C classes, V views, H×W pixels. Images are float N×channels×H×W in [0, 1];
losses and measures take logits, N×C, never probabilities; labels are LongTensor N, -1 where there is none; masks
are bool N×H×W. What does not fit - shapes, kinds of number, an empty batch, a number out of its range - raises
ValueError, which is said again only where there is more to say. Modules import downwards only:

    __main__, readme, series, doctor
    plots, widgets, study_*, studies, cued
    recipes, evaluation, explanation_metrics, explanation_distillation, explain, deeplift_support
    localisation, readable, features, batchnorm, stats
    teacher_cache, training
    data, models, losses, augment, soft_tree
    glyphs, counter, store, parallel, progress, checks, launch, settings, arguments
"""
