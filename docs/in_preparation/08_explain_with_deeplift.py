# %% [markdown]
# # Explaining with DeepLIFT
#
# The title of the article promises that distillation makes a model easier to interpret, and names one tool: DeepLIFT.
# Here we find out what the tool can be trusted with, catch a classifier that is right for the wrong reason, and ask
# what distillation does to its reasons.
#
# **You will**
# - compute DeepLIFT maps that add up, and see the constructs of PyTorch for which they silently do not;
# - find a planted flaw with a map, and prove it with an experiment that needs no map;
# - measure whether a student inherits its teacher's flaw, or its good reasons.
#
# **You need** notebook [02](02_distill.ipynb): distillation with soft targets.
#
# **Takes**: see the measured minutes in the README's table.
#
# The article's steps: §3.2 and §4, *“使用 DeepLIFT”* — “using DeepLIFT”, where a classifier does badly and has to be
# debugged. It prints no map and no number.

# %%
import functools
import warnings

import matplotlib.pyplot as plt
import torch
from captum.attr import DeepLift
from torch import nn
from torch.nn import functional as F

from distill_utils import cued, explain, glyphs, localisation, plots
from distill_utils import explanation_metrics as metrics
from distill_utils import studies, study_explanations, widgets
from distill_utils.checks import begin, check
from distill_utils.explanation_distillation import explanation_loss
from distill_utils.training import logits

begin("08_explain_with_deeplift")

# %% [markdown]
# ## 1. A classifier that looks fine
#
# This lesson always uses the glyphs, because only there do we know the true explanation of every image. We plant a
# flaw: each image gets a small patch in one corner, and nearly always the patch is the one that belongs to the class.
# Call this the *biased* set. In a *clean* set the patch is drawn at random and says nothing.

# %%
train = cued.images("glyphs", "train", 0)
test = cued.images("glyphs", "test", 0)
titles = [glyphs.CLASSES[i] for i in test.labels[:8]]
fig = plots.image_grid(test.images[:8], titles, masks=test.masks["cue"][:8])
plots.show(fig, "Eight glyph images. A red outline marks the patch in one "
           "corner of each, whose pattern belongs to the class.")

# %% [markdown]
# Eight networks, all of the kinds that you know. Two teachers see the same glyphs, one with telling patches, one with
# random ones. All students see the biased images, since in real life nobody knows which set they have. They
# differ in what they learn from:
#
# | network | learns from |
# | --- | --- |
# | alone | the labels |
# | distilled, biased | soft targets of the biased teacher |
# | distilled, clean | soft targets of the clean teacher |
# | … and transfer set | the same, also on biased images that have no labels |
# | e²KD, clean | the same, and the clean teacher's [Grad-CAM](../course/glossary.md#grad-cam) maps |
# | untrained | nothing: every claim below must survive a comparison with it |

# %%
ARMS = {
    "biased teacher": {"model": "teacher", "kind": "biased"},
    "clean teacher": {"model": "teacher", "kind": "clean"},
    "alone": {"method": "alone"},
    "distilled, biased": {"method": "distilled", "of": "biased"},
    "distilled, clean": {"method": "distilled", "of": "clean"},
    "… and transfer set":
        {"method": "distilled", "of": "clean", "transfer": True},
    "e²KD, clean": {"method": "e2kd", "of": "clean"},
    "untrained": {"method": "untrained"},
}
trained = cued.networks(list(ARMS.values()), 0, "glyphs")
networks = dict(zip(ARMS, trained, strict=True))

# %% [markdown]
# The biased teacher goes to production after the usual test: unseen images from the same source. Somebody has agreed
# beforehand that three quarters right, of 36 classes, are enough.


# %%
def accuracy(name, images):
    right = logits(networks[name], images).argmax(1) == test.labels
    return float(right.float().mean())


looks_fine = accuracy("biased teacher", test.images)
plots.show_table([{"network": "biased teacher", "test accuracy": looks_fine}])

# %% [markdown]
# The check below is that test, nothing else.

# %% tags=["nbval-check-output"]
check("the biased teacher passes its test", looks_fine, low=0.75)

# %% [markdown]
# Nothing in that number is alarming. What does the network look at?
#
# ## 2. The score that is explained
#
# DeepLIFT (Shrikumar et al. 2017) compares an image with a [*baseline*](../course/glossary.md#baseline), an image without information, and shares the
# difference of a score among the pixels. Shared out completely, the map adds up to the difference: this is called
# [*completeness*](../course/glossary.md#completeness), and it makes a map checkable.
#
# Which score? The logit of the class is the usual choice and a poor one. Add any number g(x) to *all* logits and no
# probability changes: the classifier is the same, the map of its logit is not. The centred logit, z_c − mean z, does
# not see g.


# %%
def centred(z, classes):
    return z.gather(1, classes[:, None])[:, 0] - z.mean(1)


z = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]])
classes = torch.tensor([0, 1])
for g in (0.0, 10.0, -1000.0):
    print(f"g = {g:7}:", centred(z + g, classes).tolist())

# %% [markdown]
# Three very different sets of logits, one score. From here on we use the package's function, after making sure that it
# is ours.

# %% tags=["nbval-check-output"]
same = torch.allclose(centred(z, classes), explain.centred(z, classes))
check("our centred score is the package's", same)

# %% [markdown]
# Now the map. `explain.deeplift` takes a network, images, and for each image the class to explain. The baseline here
# is each image's own mean grey. It returns the maps in logit units, the change of the score, and the residual: by what
# share of the change the map misses it.

# %%
shown = cued.explained(test, 108)
deeplift = functools.partial(explain.deeplift, baseline="grey")
found = deeplift(networks["biased teacher"], shown.images, shown.labels)
plots.show_table([
    {"image": glyphs.CLASSES[shown.labels[i]],
     "Σ map": float(found.maps[i].sum()), "Δ score": float(found.change[i]),
     "residual": float(found.residual[i])} for i in range(4)
])

# %% [markdown]
# The first two columns must agree, image by image, and the third says how well they do. The claim for this lesson is
# strict: for every network, the median map misses less than a ten-thousandth of the change.

# %% tags=["nbval-check-output"]
for name, network in networks.items():
    residual = deeplift(network, shown.images, shown.labels).residual
    check(f"{name}: maps add up", float(residual.median()), high=1e-4)

# %% [markdown]
# To compare maps of several networks in one row they need one scale, symmetric around zero. Orange speaks for the
# class, purple against it. Under each map stand its sum and the change of the score.


# %%
def panel(axis, values, scale, title="", below=""):
    axis.imshow(values, cmap="PuOr_r", vmin=-scale, vmax=scale)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=12)
    axis.set_xlabel(below, fontsize=12)


# %% [markdown]
# A row is an image and its maps by several networks. The patch is outlined in the image, not in the maps: your eye
# should find it there by itself, or not. The second column is an edge detector, which knows no network. Columns with a
# star have a scale of their own: edges are no logits, and an untrained network's logits are so small that its map would
# be empty on anybody else's scale.


# %%
def rows(images, names, explainer=deeplift):
    some = shown.subset(torch.tensor(images))
    found = {n: explainer(networks[n], some.images, some.labels)
             for n in names}
    edges = localisation.trivial_maps(some.images)["Sobel"]
    fig, axes = plots.figure(len(images), 2 + len(names), squeeze=False,
                             width=1.9 * (2 + len(names)),
                             height=2.4 * len(images))
    for i, line in enumerate(axes):
        plots.draw_image(line[0], some.images[i])
        line[0].contour(some.masks["cue"][i], [0.5], colors=plots.RED)
        panel(line[1], edges[i], float(edges[i].max()), "" if i else "edges*")
        size = {n: float(a.maps[i].abs().max()) for n, a in found.items()}
        shared = max(s for n, s in size.items() if n != "untrained")
        for axis, (n, a) in zip(line[2:], found.items(), strict=True):
            total, change = float(a.maps[i].sum()), float(a.change[i])
            own = n == "untrained"
            panel(axis, a.maps[i], size[n] if own else shared,
                  "" if i else n + "*" * own,
                  f"Σ {total:.1f}  Δ {change:.1f}")
    return fig


# %% [markdown]
# First the biased teacher, which passed its test, beside the clean one.

# %%
fig = rows([0, 1, 2], ["biased teacher", "clean teacher"])
plots.show(fig, "Three images with the DeepLIFT maps of the biased and of "
           "the clean teacher on one scale per row. The corner patch is "
           "outlined in the image; look whether it is coloured in the maps.")

# %% [markdown]
# Compare the outlined corner with the maps. The clean teacher has no reason to colour it. Before we believe what we
# see, two questions: is the tool itself sound, and does the network really behave as its map says?
#
# ## 3. What breaks DeepLIFT
#
# captum, the library that everybody uses, attaches DeepLIFT's rule to *modules* of a few exact types. Anything else
# that bends a signal falls back to the plain gradient. Nothing warns, and the map looks as it always does. Here are
# nine harmless-looking networks. Each is a convolution, something in the middle, and a linear head.


# %%
class Net(nn.Module):
    def __init__(self, middle, **parts):
        super().__init__()
        self.conv, self.again = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6 * 16, 36)
        self.middle = middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        x = self.middle(self, self.again(self.conv(x)))
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


# %% [markdown]
# Each entry of the gallery is what happens in the middle, and the modules that it needs. You will have written most of
# these yourself; none of them is a mistake as far as training and prediction go.


# %%
class MyReLU(nn.ReLU):
    pass


relu, pool = nn.ReLU, nn.MaxPool2d
GALLERY = {
    "F.relu": (lambda m, x: F.relu(x), {}),
    "x.clamp(min=0)": (lambda m, x: x.clamp(min=0), {}),
    "subclass of nn.ReLU": (lambda m, x: m.a(x), {"a": MyReLU()}),
    "nn.ReLU used twice": (lambda m, x: m.a(m.again(m.a(x))), {"a": relu()}),
    "ReLU, then MaxPool": (lambda m, x: m.p(m.a(x)),
                           {"a": relu(), "p": pool(2)}),
    "MaxPool, windows overlap": (lambda m, x: m.p(x), {"p": pool(3, 2)}),
    "nn.GELU": (lambda m, x: m.a(x), {"a": nn.GELU()}),
    "ReLU beside a shortcut": (lambda m, x: m.a(x) + x, {"a": relu()}),
    "product of two signals": (lambda m, x: x * m.a(x),
                               {"a": nn.Sigmoid()}),
}

# %% [markdown]
# For each we ask captum directly how far its map is from adding up. Our measure is the one from above: what share of
# the change of the score is missing, in the median over images. An exception counts as “an error”: it is the one case
# in which captum itself complains.


# %%
def captum_misses(net, images, classes, baseline):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _, error = DeepLift(net).attribute(
                images.clone().requires_grad_(), baseline, target=classes,
                return_convergence_delta=True)
        except RuntimeError:
            return "an error"
    with torch.no_grad():
        z = net(images) - net(baseline)
    change = z.gather(1, classes[:, None])[:, 0]
    return float((error.detach() / change).abs().median())


# %% [markdown]
# And this is what our check says. It watches one forward pass of the network, names the module and the mend, and then
# measures completeness on sixteen images before it hands out any map.


# %%
def answer(net, images, classes):
    try:
        explain.deeplift(net, images, classes)
    except explain.UnsupportedModel as refused:
        return str(refused)
    return "explained"


# %% [markdown]
# All nine, each asked twice. The baseline is another image.

# %%
torch.manual_seed(0)
nets = {n: Net(middle, **parts).eval()
        for n, (middle, parts) in GALLERY.items()}
images, classes = shown.images[:16], shown.labels[:16]
other = images.roll(1, 0)
answers = {n: answer(net, images, classes) for n, net in nets.items()}
plots.show_table([
    {"construct": n, "our check says": answers[n],
     "captum misses": captum_misses(net, images, classes, other)}
    for n, net in nets.items()
])

# %% [markdown]
# The last column is the share of the score that the map loses without a word, for an *untrained* small net; it grows
# with depth. The mends are small: modules instead of functions, one module per use, average pooling. A network that
# has them already must not be refused.

# %% tags=["nbval-check-output"]
refused = sum(said != "explained" for said in answers.values())
check("constructs that are refused", refused, 9, 9)
safe = Net(lambda m, x: m.a(x), a=nn.ReLU()).eval()
check("a module of its own is explained",
      answer(safe, images, classes) == "explained")

# %% [markdown]
# Adding up is no proof by itself. A max-pool right after a ReLU gets away with it whenever the baseline is flat,
# because a flat image excites all positions alike, and then any rule is right. Look at one network under three
# baselines.

# %%
hidden = Net(lambda m, x: m.p(m.a(x)), a=relu(), p=pool(2)).eval()
black = torch.zeros_like(images)
baselines = {"black": black, "blurred": explain.blurred(images),
             "another image": other}
plots.show_table([
    {"baseline": n, "misses": captum_misses(hidden, images, classes, b)}
    for n, b in baselines.items()
])

# %% [markdown]
# Black is the default of nearly every tool. A gate that only looks there passes a broken network; ours measures
# against other images as well.

# %% tags=["nbval-check-output"]
check("a flat baseline hides the broken pool",
      captum_misses(hidden, images, classes, black), high=1e-3)
check("another image does not",
      captum_misses(hidden, images, classes, other), low=0.01)

# %% [markdown]
# ## 4. The experiment that needs no map
#
# A map is an opinion about a network. The glyphs allow an experiment on it: draw the *same* image, noise and all,
# with another class's patch in the corner, and see whether the answer changes.

# %%
conflict = cued.images("glyphs", "test", 0, 0.0)
without = glyphs.render(glyphs.without(test.factors, "cue"))[0]
SETS = {"as in training": test.images, "no patch": without,
        "another class's patch": conflict.images}
scores = {n: {s: accuracy(n, x) for s, x in SETS.items()} for n in networks}
teachers = ["biased teacher", "clean teacher"]
plots.show_table([{"network": n, **scores[n]} for n in teachers])

# %% [markdown]
# Read along the rows. A network that reads the glyph does not care which patch stands in the corner. One that reads the
# patch is led astray. The loss between the first and the last column, in points, is the size of the flaw; the band
# allows the clean teacher a little, since a false patch can also simply irritate.

# %% tags=["nbval-check-output"]
inside, outside = "as in training", "another class's patch"
gap = {n: 100 * (s[inside] - s[outside]) for n, s in scores.items()}
check("points that the biased teacher loses", gap["biased teacher"], low=20)
check("points that the clean teacher loses", gap["clean teacher"], high=8)

# %% [markdown]
# So the map was right about the biased teacher: its accuracy was borrowed from the corner. Note the order of trust:
# the experiment convicts the network, the map only told us where to look.
#
# ## 5. A map can look right for no reason
#
# An edge detector, which knows no network, paints outlines that look like explanations (Adebayo et al. 2018). An
# untrained network paints something too. Both must stand beside every map that is to be believed.

# %%
names = ["untrained", "alone", "distilled, clean", "clean teacher"]
fig = rows([4, 5], names)
plots.show(fig, "Two images with the DeepLIFT maps of an untrained network, "
           "the student alone, the student distilled from the clean teacher "
           "and the clean teacher, on one scale per row.")

# %% [markdown]
# Can a number tell them apart? The usual one is the share of the positive relevance that lies on the glyph, corrected
# so that chance is 0 and a perfect map 1. We compute it for three maps that know no network, and for all our networks.

# %%
edges = localisation.trivial_maps(shown.images)
mask = shown.masks["object"]
mass = {n: localisation.relevance_mass(m, mask) for n, m in edges.items()}
for name, network in networks.items():
    maps = deeplift(network, shown.images, shown.labels).maps
    mass[name] = localisation.relevance_mass(maps, mask)
plots.show_table([{"map": n, "relevance on the glyph, over chance":
                   float(m.mean())} for n, m in mass.items()])

# %% [markdown]
# Read the first three lines, the maps without a network, before the others. Where a map that knows nothing lies above
# chance, “it looks at the object” cannot be said from this number: it is a property of the pictures. Then compare the
# untrained network with the trained ones. A score must pass such *gates* before it may judge anybody.
#
# ## 6. Does the map know what the network does?
#
# A better question than “where does the map point?” is “does it foretell what happens?” Take each region of each
# image (glyph, patch, distractor, eight stretches of background), draw the image again without it, and note how far
# the score falls. Then compare with the relevance that the map gave to that region, by rank over all of them.


# %%
EXPLAINERS = {
    "DeepLIFT": deeplift,
    "integrated gradients": functools.partial(
        explain.integrated_gradients, baseline="grey", steps=16),
    "occlusion": functools.partial(explain.occlusion, baseline="grey"),
}


@functools.cache
def maps_of(name, explainer):
    f = EXPLAINERS[explainer]
    return f(networks[name], shown.images, shown.labels).maps


# %% [markdown]
# Three explainers stand side by side, because a finding that holds for one of them alone is a finding about that
# explainer. Integrated gradients walk from the baseline to the image; occlusion hides one window after the other.


# %%
def foretold(name):
    regions, effects = metrics.interventions(
        networks[name], shown.factors, shown.labels)
    return {e: metrics.region_correlation(maps_of(name, e), regions, effects)
            for e in EXPLAINERS}


students = [n for n in networks if "teacher" not in n]
plots.show_table([{"network": n, **foretold(n)} for n in students])

# %% [markdown]
# One is a perfect order, zero is chance.
#
# ## 7. Do single units see the glyph?
#
# There is a paper that found what the article promises: distilled students have more *concept detectors* (Han et al.
# 2023), counted by network dissection (Bau et al. 2017). A unit is taken where it is most active, over all images; if
# these places overlap with a concept, it is said to detect it. Two controls: an untrained network; and the same
# network with its units *turned*: new units that are mixtures of the old ones, from which the next layer could
# compute all that it computed before.

# %%
few = test.subset(torch.arange(500))
seen = few.masks["object"][None]
units = {n: [metrics.dissection(networks[n], few.images, seen, turned=turned)
             for turned in (None, 0)] for n in networks}
plots.show_table([
    {"network": n, "overlap with the glyph, mean of units": float(own.mean()),
     "best unit": float(own.max()), "mean of turned units":
     float(turned.mean()), "best turned unit": float(turned.max())}
    for n, (own, turned) in units.items()])

# %% [markdown]
# Compare down the columns and across. If turned units mark the glyph as well as the real ones, the overlap says that
# the layer as a whole is active on strokes, and nothing about single units; if the untrained network comes near, not
# even that was learnt. On these images strokes are where the edges are, and edges excite any filter.

# %% tags=["nbval-check-output"]
own, turned = units["distilled, clean"]
check("turned units mark the glyph as well (ratio of means)",
      float(turned.mean() / own.mean()), low=0.7)

# %% [markdown]
# ## 8. Is the flaw passed on?
#
# Now the students. All of them saw biased images; only their teachers differ.

# %%
fig, axis = plots.figure(width=9, height=4.2)
for y, name in enumerate(scores):
    a, b = (100 * scores[name][s] for s in (inside, outside))
    axis.plot([b, a], [y, y], color="0.6", zorder=0)
    axis.plot(a, y, "o", color=plots.BLUE, label="" if y else inside)
    axis.plot(b, y, "s", color=plots.RED, label="" if y else outside)
axis.set(yticks=range(len(scores)), yticklabels=list(scores),
         xlabel="accuracy on 2,000 test images, %", xlim=(0, 100))
axis.invert_yaxis()
axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2,
            frameon=False)
plots.show(fig, "Accuracy of each network on images as in training and on "
           "the same images with another class's patch; the distance is what "
           "the patch was worth.",
           [{"network": n, **s} for n, s in scores.items()])

# %% [markdown]
# The longer the grey line, the more a network relies on the corner. Look at three comparisons: the student alone
# with the one distilled from the biased teacher (does soft advice spread the flaw?), the same with the clean teacher
# (does good advice repair it, although the images invite the shortcut?), and the e²KD student with the plainly distilled
# one (does matching maps add anything?). The repaired student is the one that also asked its clean teacher about images
# without labels. What is checked: it must win back at least half of what the student alone loses to a false patch.

# %% tags=["nbval-check-output"]
alone = scores["alone"]
lost = alone[inside] - alone[outside]
share = {n: (s[outside] - alone[outside]) / lost for n, s in scores.items()}
check("the student alone reads the patch", 100 * lost, low=40)
check("share of it that advice from a clean teacher repairs",
      share["… and transfer set"], low=0.5)
check("share that advice from the biased teacher repairs",
      share["distilled, biased"], high=0.35)

# %% [markdown]
# ## 9. Distilling the map itself
#
# e²KD (Parchami-Araghi et al. 2024) adds one term to the loss: the cosine between the student's and the teacher's
# Grad-CAM map of the same class. The whole term is two lines. We keep the maps' signs; the published code cuts them at
# zero, and a student whose map is all negative then gets no gradient and stays dead.


# %%
def match(student_maps, teacher_maps):
    a, b = student_maps.flatten(1), teacher_maps.detach().flatten(1)
    return 1 - F.cosine_similarity(a, b).mean()


torch.manual_seed(1)
a = torch.randn(4, 3, 3)
for name, b in {"same": a, "scaled": 9 * a, "opposite": -a}.items():
    print(f"{name:8} {float(match(a, b)):.3f}")

# %% [markdown]
# Equal maps cost nothing, whatever their scale, and opposite ones cost two.

# %% tags=["nbval-check-output"]
b = torch.randn(4, 3, 3)
check("our match is the package's",
      torch.allclose(match(a, b), explanation_loss(a, b)))

# %% [markdown]
# A student trained on Grad-CAM must not be judged by Grad-CAM: its maps agree because they were trained to. Judge with
# explainers that it never saw. And subtract what any two maps have in common, by comparing with the teacher's maps of
# *other* images.

# %%
table = []
for name in ("alone", "distilled, clean", "e²KD, clean", "untrained"):
    line = {"network": name}
    for e in EXPLAINERS:
        alike = metrics.agreement(maps_of(name, e),
                                  maps_of("clean teacher", e))
        line[e] = alike["cosine"] - alike["cosine_mismatched"]
    table.append(line)
plots.show_table(table)

# %% [markdown]
# Each column is the cosine with the clean teacher's maps, over that of mismatched images: zero is no agreement about
# the image at all.
#
# ## 10. The evidence
#
# Everything so far was one seed. The study repeats it for several, with all controls, and judges only what passes the
# gates that were declared before it ran.

# %%
study = studies.results("explanations", "glyphs")
runs = study["runs"]
print(len(runs), "networks,", study["settings"]["seeds"], "seeds")

# %% [markdown]
# The gates first: what has to hold before an explainer may judge a network. They are computed from the runs.

# %%
gates = study_explanations.gates(runs)
plots.show_table([{"gate": name, "measured": g["value"],
                   "needs": g["needs"],
                   "passed": "yes" if g["passed"] else "no"}
                  for name, g in gates.items()])

# %% [markdown]
# A metric whose gate failed is not a little less certain; it says nothing about the question. Its claims below carry
# the reason in place of a verdict.


# %%
def forest(rows):
    fig, axes = plots.figure(len(rows), 1, width=9, height=0.9 * len(rows))
    for axis, row in zip(axes, rows, strict=True):
        axis.axvspan(-row["smallest"], row["smallest"], color="0.9")
        axis.axvline(0, color="0.5", linewidth=1)
        open_ = row["verdict"].startswith("no verdict")
        axis.plot([row["low"], row["high"]], [0, 0], color=plots.BLUE)
        axis.plot(row["difference"], 0, "o", color=plots.BLUE,
                  fillstyle="none" if open_ else "full")
        axis.set(yticks=[])
        axis.set_title(f"{row['claim']}: {row['metric']}", fontsize=11)
        reach = max(abs(row["low"]), abs(row["high"]), 2 * row["smallest"])
        axis.set_xlim(-1.1 * reach, 1.1 * reach)
    return fig


# %% [markdown]
# The grey band of each row is what we decided beforehand not to care about. An interval inside it is a finding too:
# no meaningful difference. The gates were shaped while looking at seed 0, so the last column judges again without it.

# %%
judged = study["verdicts"]
primary = [r for r in judged if r["claim"].startswith("primary")]
claims = study_explanations.STUDY.claims("glyphs")
again = studies.verdicts(claims, [r for r in runs if r["seed"] > 0])
columns = ("claim", "metric", "difference", "low", "high", "n", "verdict")
plots.show(forest(primary), "Mean paired differences with 95 % intervals "
           "for the primary claims. Grey: too small to matter. Hollow "
           "points have no verdict, because a gate failed.",
           [{c: r[c] for c in columns} | {"without seed 0": s["verdict"]}
            for r, s in zip(judged, again, strict=True)])

# %% [markdown]
# Every number is a paired difference over seeds, treated minus control; for the sensitivity less is better. The
# p-values behind the words are corrected for the number of claims.
#
# ### A card for each student
#
# What may be handed over with a model is short: what it is right about, what it relies on, how far its maps can be
# used, and what they cannot tell.


# %%
def card(name):
    s, network = scores[name], networks[name]
    a = deeplift(network, shown.images, shown.labels)
    moved = logits(network, test.images).argmax(1)
    moved = moved != logits(network, conflict.images).argmax(1)
    return {
        "network": name,
        "accuracy": s[inside], "with a false patch": s[outside],
        "decided by the patch": float(moved.float().mean()),
        "map error": float(a.residual.median()),
        "effective pixels": float(metrics.effective_pixels(a.maps).mean()),
    }


plots.show_table([card(n) for n in students])

# %% [markdown]
# What the card cannot tell: whether the glyph itself is read as a person would read it; what happens with flaws that
# nobody planted; anything about photographs. And clear explanations have a price: in a large experiment, people shown
# simpler models got *worse* at noticing a model's sizeable mistakes (Poursabzi-Sangdeh et al. 2021).
#
# ### Look for yourself

# %% tags=["nbval-ignore-output"]
def draw(image, network, baseline):
    given = shown.images[image - 1] if baseline == "another image" else baseline
    f = functools.partial(explain.deeplift, baseline=given)
    names = dict.fromkeys([network, "clean teacher"])  # one, if it is that one
    fig = rows([image], list(names), f)
    plt.close(fig)
    return fig


widgets.explore(draw, instead="Live, this cell shows the map of any image "
                "and network; the rows above carry the message.",
                image=(0, 107, 1), network=list(networks),
                baseline=["grey", "blurred", "another image"])

# %% [markdown]
# ### What the evidence allows one to say
#
# “Distillation makes a model easier to interpret” is several claims. The lines below are put together from the study
# by code: one for each declared comparison, with its word.

# %%
photos = studies.results("explanations", "fashion_mnist")
for name, said in (("glyphs", judged), ("Fashion-MNIST", photos["verdicts"])):
    print(name)
    for r in said:
        print(f"  {r['claim']} ({r['metric']}): {r['verdict']}")

# %% [markdown]
# ## Summary
#
# - Explain the centred logit; ask every map to add up, also against another image; let no tool explain a network that
#   its rules do not cover.
# - A map tells where to look. Whether the network relies on it is shown by an experiment on the input.
# - An edge detector and an untrained network stand beside every map; a metric that cannot tell them apart judges
#   nobody.
# - Distillation passes on what the teacher knows, its reasons included, good and bad. Whether that makes a model easier
#   to explain is said above, claim by claim, in computed words.
#
# > **Why your numbers may differ.** Training sums are ordered differently on other hardware and in other versions, so
# > single networks move. The bands of the checks are wide enough for that; the study states its versions.
#
# ## Exercises
#
# 1. **Apply.** Explain the *second most likely* class of some images in place of the label. Do the maps of the biased
#    teacher still colour the corner?
#    <details><summary>Hint</summary>`logits(network, images).topk(2).indices[:, 1]` are the classes.</details>
# 2. **Change.** Mend three networks of the gallery so that they are explained and add up.
#    <details><summary>Hint</summary>The message names the mend. For the shortcut it is one `.clone()`.</details>
# 3. **Investigate.** Distil from the *biased* teacher with its maps matched as well
#    (`{"method": "e2kd", "of": "biased"}`). Does matching maps repair anything when the maps are wrong?
#    <details><summary>Hint</summary>`cued.model(arm, 0, "glyphs")` trains it; `accuracy` needs it in
#    `networks`.</details>
#
# ## Next
#
# A map explains one answer. The next lesson distils the whole network into something that can be read from top to
# bottom: [09](09_readable_student.ipynb), a decision tree.
