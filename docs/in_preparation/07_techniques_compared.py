# %% [markdown]
# # Techniques compared
#
# The article names three techniques of distillation. We look for the published methods that fit its words, build
# them, and ask of each whether it beats plain distillation when all have equal means.
#
# **You will**
# - split the distillation loss exactly into “which family?” and “which member?”, and watch what a student learns first;
# - choose among twelve techniques from one table and one figure, with the doubt of several seeds in both;
# - fine-tune without forgetting, and find out what BatchNorm remembers: enough to distil without any data.
#
# **You need** notebook [03](03_train_student.ipynb): soft targets, temperature, and what plain distillation gains.
#
# **Takes**: see the measured minutes in the README's table.
#
# The article's section 2.3: *“常见的模型蒸馏技术包括：GroupLuong 蒸馏 … ModelArnol 蒸馏 … BatchNormalization”* —
# “common techniques of model distillation include: GroupLuong distillation … ModelArnol distillation …
# BatchNormalization”.

# %% [markdown]
# ## 1. Two names that cannot be found
#
# No paper, library or documentation describes a “GroupLuong” or a “ModelArnol” distillation; we have searched and say
# so once. But the article describes each in one sentence, and those sentences fit methods that do exist:
#
# | the article says | published methods, here |
# | :-- | :-- |
# | a technique “based on the loss function”, for classifiers: change the loss, add a term (*基于损失函数*) | the loss split by groups of classes, with Decoupled KD and Grouped KD as special cases; losses on relations and features |
# | a technique “based on fine-tuning”: fine-tune the large model, keep the small model's knowledge (*保留小模型的知识*) | fine-tuning with a retention term; Learning without Forgetting |
# | BatchNormalization “does not apply directly” (*应用并不直接*) | what it does to a teacher, to a cut student, at export, and without data |

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from distill_utils import batchnorm, evaluation, features, glyphs, losses
from distill_utils import models, plots, recipes, settings, studies
from distill_utils import study_techniques, teacher_cache, training, widgets
from distill_utils.checks import begin, check
from distill_utils.data import ImageSet
from distill_utils.evaluation import compare, score
from distill_utils.training import Schedule, logits

begin("07_techniques_compared")
plt.rcParams.update(plots.STYLE)
data = recipes.dataset(settings.dataset())
C, T = len(data.classes), 8.0  # T: of what is trained live
labels = data.validation.labels

# %% [markdown]
# The teacher is the series' own, and so is the first student: distilled at T, one of the temperatures of
# [03](03_train_student.ipynb).
# What is measured live below is measured on validation images, but for one number that says so; the study reports test.

# %%
teacher = recipes.load_or_train(recipes.TEACHER).model
student = recipes.load_or_train(recipes.Recipe(
    method="distillation", teacher=recipes.TEACHER,
    method_options={"temperature": T})).model
z_t, z_s = (logits(model, data.validation.images).double()
            for model in (teacher, student))  # N×C

# %% [markdown]
# ## 2. The loss, split by groups
#
# Put the C classes into [groups](../course/glossary.md#group-distillation). To say which class an image shows, one can first say which *group*, and then which
# *member* of it. With P_g and Q_g for the mass that teacher and student give to group g:
#
#     KL(p ‖ q)  =  KL(P ‖ Q)  +  Σ_g  P_g · KL(p within g ‖ q within g)
#                   between        within
#
# This holds for any groups and is no approximation. It is the key to a family of published losses: they give the
# parts other weights. In the open:

# %%
def split(z_s, z_t, groups, T):
    """T²·KL between the groups, and within each; means over the batch."""
    p, q = (z_t / T).softmax(1), (z_s / T).softmax(1)  # N×C
    member = F.one_hot(groups).to(p)  # C×G
    P, Q = p @ member, q @ member  # N×G
    between = (P * (P / Q).log()).sum(1)
    given_p, given_q = p / P[:, groups], q / Q[:, groups]
    within = (p * (given_p / given_q).log()) @ member  # N×G
    return T**2 * between.mean(), T**2 * within.mean(0)


# %% [markdown]
# Extreme groupings first. With everything in one group there is nothing to tell between groups; with every class a
# group of its own there is nothing within.

# %%
groupings = {
    "one group": torch.zeros(C, dtype=torch.long),
    "two: even and odd positions": torch.arange(C) % 2,
    "each class its own": torch.arange(C),
}
parts = {name: split(z_s, z_t, groups, T)
         for name, groups in groupings.items()}
plots.show_table([
    {"groups": name, "between": float(between),
     "within": float(within.sum()), "sum": float(between + within.sum())}
    for name, (between, within) in parts.items()])

# %% [markdown]
# The last column does not move: it is the soft-target loss. The package's version computes the same in log space, so
# that nothing is divided by a mass that has underflowed; from here on we use that one.

# %% tags=["nbval-check-output"]
whole = losses.soft_target_loss(z_s, z_t, T)
errors = []
for name, groups in groupings.items():
    between, within = losses.group_kd_parts(z_s, z_t, groups, T)
    errors += [abs(between + within.sum() - whole),
               abs(between - parts[name][0])]
check("the parts add up to the soft-target loss", max(errors), high=1e-10)

# %% [markdown]
# Groups may differ from image to image, and then two published methods fall out:
#
# - [**Decoupled KD**](../course/glossary.md#decoupled-distillation) (Zhao et al. 2022): the groups are {label} and {all others}; the within part loses its factor P_g
#   (*decoupled*) and gets a weight β. In the plain loss that factor is one minus the teacher's confidence in the
#   label, so the surer the teacher, the less it teaches about the other classes.
# - **Grouped KD** (AAAI 2023): the groups are *primary* (the fewest classes that hold a share of the teacher's mass)
#   and *secondary*, and the part within the secondary group is dropped as noise.
#
# Check the first against its own paper's formula, written out:

# %% tags=["nbval-check-output"]
p, q = (z_t / T).softmax(1), (z_s / T).softmax(1)
is_label = F.one_hot(labels, C).bool()
py, qy = p[is_label], q[is_label]
rest_p = p.masked_fill(is_label, 0) / (1 - py)[:, None]
rest_q = q.masked_fill(is_label, 0) / (1 - qy)[:, None]
tckd = py * (py / qy).log() + (1 - py) * ((1 - py) / (1 - qy)).log()
nckd = torch.where(is_label, 0, rest_p * (rest_p / rest_q).log()).sum(1)
by_hand = T**2 * (tckd + 8 * nckd).mean()
by_groups = losses.group_kd_loss(
    z_s, z_t, losses.target_groups(labels, C), T, between=1, within=8,
    decoupled=True)
check("Decoupled KD is a grouping", abs(by_hand - by_groups), high=1e-10)
check("dkd_loss is that", abs(by_hand - losses.dkd_loss(
    z_s, z_t, labels, T)), high=1e-10)

# %% [markdown]
# ## 3. Groups with a meaning: who looks like whom?
#
# Which groups would *mean* something? The teacher knows: its soft targets say which classes it nearly confuses. We
# average them per class over the training images, take that table as a measure of likeness, and cluster it into half
# as many groups as there are classes. No one tells the clustering what a letter is.

# %%
recorded = teacher_cache.record(teacher, data.train.images)
alike = evaluation.soft_confusions(recorded[0].float(), data.train.labels, T)
groups = evaluation.look_alikes(alike, C // 2)


def members(groups):
    return [", ".join(data.classes[i] for i in range(C) if groups[i] == g)
            for g in range(int(groups.max()) + 1)]


print(" | ".join(members(groups)))

# %% [markdown]
# Here is the table that was clustered, with the classes in the order of their groups. Look for the blocks on the
# diagonal: each frame is a group.

# %%
order = groups.argsort(stable=True)
fig, ax = plots.figure(width=9, height=8)
off = alike.clone().fill_diagonal_(0)[order][:, order]
picture = ax.imshow(off, cmap="Blues", vmin=0)
for g in range(int(groups.max()) + 1):
    place = (groups[order] == g).nonzero()[:, 0]
    start, size = int(place[0]) - 0.5, len(place)
    ax.add_patch(plt.Rectangle((start, start), size, size, fill=False,
                                     edgecolor=plots.RED, linewidth=2))
names = [data.classes[i] for i in order]
ax.set_xticks(range(C), names, fontsize=12, rotation=0 if C > 20 else 45)
ax.set_yticks(range(C), names, fontsize=12)
ax.set(xlabel="gets probability from the teacher", ylabel="is shown",
       title="Which classes does the teacher find alike?")
fig.colorbar(picture, label=f"mean soft target at T = {T:g}", shrink=0.7)
inside = groups[:, None] == groups
inside.fill_diagonal_(False)
plots.show(fig, "Mean soft targets of the teacher per class, classes ordered "
           "by group, each group framed: the larger values lie in the "
           "frames.", [
    {"pairs of classes": "of one group", "mean soft target":
        float(alike[inside].mean())},
    {"pairs of classes": "of two groups", "mean soft target":
        float(off.sum() / (C * (C - 1) - int(inside.sum())))}])

# %% [markdown]
# Is that the alphabet, or the teacher's whim? On glyphs we can ask the fonts, because we draw the images ourselves:
# render every class upright and centred in every face, and measure the overlap of two shapes as intersection over
# union. If the groups are real, members of one group overlap more than others.

# %% tags=["nbval-check-output"]
def font_overlap():
    """Mean overlap of the shapes of two classes over all faces, C×C."""
    n = len(glyphs.FACES)
    factors = glyphs.sample(torch.arange(C * n))
    upright = {name: torch.zeros(C * n)
               for name in ("rotation", "shear", "x", "y")}
    same = {"aspect": torch.ones(C * n), "cap_height": torch.full(
        (C * n,), 13.0), "face": torch.arange(C * n) // C}
    off_stage = {"distractor_x": torch.full((C * n,), 99.0)}
    _, masks = glyphs.render({**factors, **upright, **same, **off_stage})
    shape = masks["object"].flatten(1).float().view(n, C, -1)
    both = shape @ shape.transpose(1, 2)
    area = shape.sum(2)
    return (both / (area[:, :, None] + area[:, None] - both)).mean(0)


if data.name == "glyphs":
    overlap = font_overlap()
    other = ~inside & ~torch.eye(C, dtype=torch.bool)
    gap = overlap[inside].mean() - overlap[other].mean()
    check("grouped letters overlap more in the fonts", gap.item(), low=0.05)
else:
    print("the fonts can only be asked about glyphs")

# %% [markdown]
# Chance could do that too, so draw groups of the same sizes at random, many times, and see how often they overlap as
# much.

# %%
if data.name == "glyphs":
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(2000):
        random = groups[torch.randperm(C, generator=generator)]
        pairs = (random[:, None] == random).fill_diagonal_(False)
        drawn.append(overlap[pairs].mean().item())
    found = overlap[inside].mean().item()
    plots.show_table([{
        "overlap in the teacher's groups": found,
        "in random groups, mean": float(np.mean(drawn)),
        "in random groups, largest": max(drawn),
        "share of random groups as good": float(
            np.mean([value >= found for value in drawn]))}])

# %% [markdown]
# ## 4. What does a student learn first, the family or the member?
#
# The split is a microscope. Train a student with the plain loss, from scratch, and log both parts as it goes: nothing
# about the training changes, since their sum is the loss. We log two shares of the training batches beside them: how
# often the student names the right family, and how often, given that, the right member.

# %%
def watched(model, batch):
    z = model(batch.images)
    between, within = losses.group_kd_parts(z, batch.teacher_logits,
                                            groups, T)
    family = (groups[z.argmax(1)] == groups[batch.labels]).float().mean()
    right = (z.argmax(1) == batch.labels).float().mean()
    return between + within.sum(), {
        "between": between, "within": within.sum(),
        "family": family, "member": right / family.clamp(min=1e-3)}


torch.manual_seed(0)
fresh = models.build("student", C, data.in_channels)
first = logits(fresh, data.train.images)
start = losses.group_kd_parts(first, recorded[0].float(), groups, T)
history = training.fit(fresh, data.train, watched, teacher=recorded)

# %% [markdown]
# Two drawings of the same run. Left: how much of each part of the loss is left, as a share of what the untrained
# student had. Right: what that means in decisions.

# %%
steps = history["step"]
left = {"between families": [b / float(start[0]) for b in history["between"]],
        "within families": [w / float(start[1].sum())
                            for w in history["within"]]}
fig, axes = plots.figure(1, 2, width=12, height=4.3)
for (name, values), style in zip(left.items(), (
        plots.DISTILLED, plots.ALONE), strict=True):
    axes[0].plot([0, *steps], [1, *values], label=name, **style)
axes[0].set(xlabel="step", ylabel="share of the loss that is left",
            ylim=(0, 1.05), title="Which part of the loss goes first?")
for name, style in (("family", plots.DISTILLED), ("member", plots.ALONE)):
    label = "right family" if name == "family" else "member, given the family"
    axes[1].plot(steps, history[name], label=label, **style)
axes[1].set(xlabel="step", ylabel="share of training images", ylim=(0, 1.05),
            title="What does it get right?")
for ax in axes:
    ax.legend()
rows = [{"step": step, **{name: values[i] for name, values in left.items()},
         "right family": history["family"][i],
         "member, given the family": history["member"][i]}
        for i, step in enumerate(steps) if i % 4 == 3]
plots.show(fig, "Left: the shares of the between and the within part of the "
           "loss that are left, against the step. Right: the shares of "
           "images with the right family, and with the right member given "
           "the family.", rows)

# %% [markdown]
# Two ways of asking the question, and they need not agree. The left panel asks the *loss*: which of the two lies
# lower at a given step? The right panel asks for *decisions*; but there a coin would be right more often about a
# member of two than about one family of many.
#
# How much of what is left to learn lies between families depends on how coarse they are. The figure counts groups
# from few to many, for the plain student on validation images; the explorer below it lets you pick one number and
# read the groups.

# %%
counts = sorted({2, 3, *range(4, C + 1, max(1, C // 9)), C})
shares = []
for count in counts:
    between, _ = losses.group_kd_parts(
        z_s, z_t, evaluation.look_alikes(alike, count), T)
    random = evaluation.look_alikes(alike, count)[torch.randperm(
        C, generator=torch.Generator().manual_seed(count))]
    by_chance, _ = losses.group_kd_parts(z_s, z_t, random, T)
    shares.append({"groups": count, "look-alikes": float(between / whole),
                   "same sizes, drawn at random": float(by_chance / whole)})
fig, ax = plots.figure(width=8, height=4)
for name, style in (("look-alikes", plots.DISTILLED),
                    ("same sizes, drawn at random", plots.ALONE)):
    ax.plot(counts, [row[name] for row in shares], label=name, **style)
ax.set(xlabel="number of groups", ylabel="between ÷ whole loss",
       ylim=(0, 1.05), title="Where is the rest of the loss?")
ax.legend()
plots.show(fig, "Share of the distilled student's remaining loss that lies "
           "between groups, against the number of groups, for look-alikes "
           "and for random groups of the same sizes.", shares)

# %% [markdown]
# The lower line of the two says which grouping leaves less *between* groups. Now choose the number yourself.

# %% tags=["nbval-ignore-output"]
def draw(count):
    chosen = evaluation.look_alikes(alike, count)
    between, within = losses.group_kd_parts(z_s, z_t, chosen, T)
    values = [float(between), *within.tolist()]
    names = ["between", *members(chosen)]
    fig, ax = plots.figure(width=9, height=1.5 + 0.32 * len(names))
    ax.barh(names, values, color=[plots.BLUE] + [plots.ORANGE] * count)
    ax.invert_yaxis()
    ax.set(xlabel="part of the loss", title=f"{count} groups: what is left?")
    return fig


widgets.explore(draw, count=(2, C, 1), instead="With a live kernel, a slider "
                "here chooses the number of groups; see the figure above.")

# %% [markdown]
# ## 5. Other things to match: scale, relations, features
#
# The loss may also ask for something else than the teacher's probabilities. Each of these is a few lines in
# `distill_utils.losses` or `distill_utils.features`:
#
# | technique | the student shall have | published |
# | :-- | :-- | :-- |
# | logit standardisation | the same logits, up to scale and shift of each row | Sun et al. 2024 |
# | DIST | probabilities that correlate, per image and per class | Huang et al. 2022 |
# | FitNets hint | after a regressor, the same feature map at one stage | Romero et al. 2015 |
# | attention transfer | its activity in the same places | Zagoruyko and Komodakis 2017 |
# | RKD | the same distances and angles between images | Park et al. 2019 |
# | SimKD | features that fit the teacher's own classifier | Chen et al. 2022 |
#
# Each keeps some freedom that the plain loss takes away. The table shows which change of the student's answers or
# features each loss forgives; the check below it insists.

# %% tags=["nbval-check-output"]
def attention(maps):
    """Where a layer is active: N×HW, each row of length 1."""
    return F.normalize(maps.square().mean(1).flatten(1))


stage = features.stages(teacher)[2]
some = data.validation.images[:64]
(maps,) = features.read_teacher(teacher, some, [stage], C)  # N×ch×H×W
pooled = features.read_teacher(teacher, some, ["pool"], C)[0].flatten(1)
turn = torch.linalg.qr(torch.randn(pooled.shape[1], pooled.shape[1])).Q
standard = losses.logit_standardised_loss
by_hand = (attention(maps) - attention(maps.roll(1, 0))).square().mean()
forgiven = {
    "standardisation: scale and shift": standard(3 * z_t + 1, z_t, 2.0),
    "attention: exchanged channels": features.attention_transfer_loss(
        5 * maps.flip(1), maps),
    "RKD: a turned feature space": features.rkd_distance_loss(
        2 * pooled @ turn + 1, pooled),
}
for name, loss in forgiven.items():
    check(f"forgives {name}", loss.item(), high=1e-6)
check("attention transfer is those two lines", abs(
    by_hand - features.attention_transfer_loss(
        maps.roll(1, 0), maps)).item(), high=1e-7)

# %% [markdown]
# Features are read by *forward hooks*: a function that PyTorch calls with a layer's output. No model has to be
# rewritten for it, and the hooks are gone afterwards.
#
# Look at features before you match them. Below each image: where the teacher is active (mean square over channels)
# after its first block, and after its third, once as the ReLU leaves it and once after the pooling that follows.

# %%
chosen = [int((labels == c).nonzero()[0]) for c in range(6)]
shown = data.validation.images[chosen]
places = {"block 1": "features.2", "block 3, ReLU": "features.9",
          "block 3, pooled": "features.10"}
maps = features.read_teacher(teacher, shown, list(places.values()), C)
fig, axes = plots.figure(4, 6, width=11, height=7.6)
for ax, image in zip(axes[0], shown, strict=True):
    plots.draw_image(ax, image)
    ax.axis("on")
for row, values in zip(axes[1:], maps, strict=True):
    for ax, image in zip(row, values.square().mean(1), strict=True):
        ax.imshow(image, cmap="magma", vmin=0)
for ax, name in zip(axes[:, 0], ("image", *places), strict=True):
    ax.set_ylabel(name, fontsize=12)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
edge = maps[1].square().mean(1)
height, width = edge.shape[1:]
read = 2 * (height // 2), 2 * (width // 2)
unread = 1 - float(edge[:, :read[0], :read[1]].sum() / edge.sum())
plots.show(fig, "Six images and, below each, where the teacher is active: "
           "after block 1, after the ReLU of block 3, and after pooling.", [
    {"block 3": "share of places that pooling never reads",
     "": 1 - read[0] * read[1] / (height * width)},
    {"block 3": "share of the activity there", "": unread}])

# %% [markdown]
# If the map of block 3 has an odd size, pooling by two leaves out its last row and column. No later layer reads them,
# no loss ever shaped them, and they may hold most of the activity (see the table). A student that is asked to match
# this map learns noise. `features.stages` therefore names what the *next block reads*; matched there, a hint has a
# meaning.

# %% [markdown]
# ## 6. Twelve techniques, equal means
#
# Published comparisons disagree by about a point on what even plain distillation reaches, because training recipes,
# tuning and the number of seeds differ. So we ran our own: the study `techniques` gives every technique the same
# student, first weights, batches and number of steps, and **the same budget for tuning**: three settings each, chosen
# on validation at one seed that is not reported. Techniques that are *added* to distillation (hint, attention, RKD) or
# split it take the middle one of the three temperatures among which plain distillation chooses. One row differs in kind:
# SimKD's student carries a projector and the teacher's head, so look at its column of parameters.

# %%
NAME = settings.dataset()
NAME = NAME if NAME in study_techniques.STUDY.datasets else "glyphs"
PLAIN = study_techniques.PLAIN
every = {name: studies.results("techniques", name)
         for name in study_techniques.STUDY.datasets}
study = every[NAME]


def per_seed(metric, name, study=study):
    return studies.select(study["runs"], metric, technique=name)


for name, one in every.items():
    print(f"{name}: {one['settings']['seeds']} seeds, {len(one['runs'])} "
          f"runs, {one['seconds'] / 60:.0f} minutes")

# %% [markdown]
# One row per technique: its chosen setting, means over seeds, and the verdict on its difference to plain distillation
# (Holm-corrected over all rows).

# %%
def compared(study):
    verdicts = {row["claim"].removesuffix(" against plain distillation"): row
                for row in study["verdicts"]}
    rows = []
    for name, technique in study_techniques.TECHNIQUES.items():
        row = verdicts.get(name, {"verdict": "(plain)", "difference": 0.0})
        chosen = technique.settings[int(per_seed("setting", name, study)[0])]
        ((option, value),) = chosen.items()
        mean = {metric: float(np.mean(per_seed(metric, name, study)))
                for metric in ("test_accuracy", "test_nll", "agreement",
                               "relative_cost", "parameters")}
        rows.append({
            "technique": name, "chosen setting": f"{option} {value:g}",
            "test accuracy": mean["test_accuracy"],
            "− plain": row["difference"], "low": row.get("low", 0.0),
            "high": row.get("high", 0.0), "verdict": row["verdict"],
            "NLL": mean["test_nll"], "agreement": mean["agreement"],
            "cost per step": mean["relative_cost"],
            "parameters": int(mean["parameters"])})
    return sorted(rows, key=lambda row: -row["test accuracy"])


table = compared(study)

# %% [markdown]
# The figure is the one to choose from. Each bar is the 95 % interval of the difference to plain distillation, paired
# by seed; the band is the smallest difference that would matter, declared before the study ran. (The axis is linear
# between the two marks next to zero and logarithmic beyond them.) On the right, what a
# training step costs, in units of a step of plain distillation on recorded logits.

# %%
fig, (ax, cost) = plots.figure(1, 2, width=12, height=6, sharey=True,
                               width_ratios=(2.4, 1))
rows = [row for row in table if row["technique"] != PLAIN]
for y, row in enumerate(rows):
    color = {"improves": plots.GREEN, "worsens": plots.RED}.get(
        row["verdict"].split(",")[0], plots.BLACK)
    ends = [100 * row[end] for end in ("low", "high")]
    ax.plot(ends, [y, y], color=color)
    ax.plot(100 * row["− plain"], y, "o", color=color)
    cost.barh(y, row["cost per step"], color=plots.SKY)
ax.axvspan(-100 * study_techniques.SMALLEST,
           100 * study_techniques.SMALLEST, color="0.9")
ax.axvline(0, color=plots.BLACK, linewidth=1)
ax.set_yticks(range(len(rows)), [row["technique"] for row in rows])
ax.set_ylim(len(rows) - 0.5, -0.5)
ax.set(xlabel="test accuracy − plain distillation (points)",
       title="Does it beat plain distillation?")
ax.set_xscale("symlog", linthresh=2)
ax.set_xticks([-10, -5, -2, -1, 0, 1, 2, 5, 10],
              ["−10", "−5", "−2", "−1", "0", "1", "2", "5", "10"])
cost.set(xlabel="× plain", title="Cost per step")
plots.show(fig, "Test accuracy of each technique minus that of plain "
           "distillation, with intervals, and its cost per step.", table)

# %% [markdown]
# Now the choice, put into words by code, and for both datasets of the study. A technique is worth its price only where its verdict says *improves*; where
# several do, the cheapest comes first.

# %%
def worded(rows):
    words = {}
    for row in rows:
        if row["technique"] != PLAIN:
            words.setdefault(row["verdict"], []).append(row)
    lines = []
    for verdict, mine in sorted(words.items()):
        mine.sort(key=lambda row: row["cost per step"])
        lines.append(f"{verdict}: " + ", ".join(
            f"{row['technique']} ({100 * row['− plain']:+.1f} points at "
            f"{row['cost per step']:.1f} × the cost)" for row in mine))
    return lines


for name, one in every.items():
    print(f"{name}\n  " + "\n  ".join(worded(compared(one))))

# %% [markdown]
# Why does the student alone lie so far behind? Because this study trains without augmentation, and the teacher was
# trained with it: its soft targets bring that knowledge along ([03](03_train_student.ipynb) takes the gain apart).
#
# Were three settings enough? If a technique chose the first or the last of its three, a wider search might have found
# it a better one; the last column says so.

# %%
plots.show_table([
    {"technique": name, **{f"{i + 1}. setting": per_seed(
        f"tuning_accuracy_{i}", name)[0] for i in range(3)},
     "chosen at an end": "yes" if per_seed("setting", name)[0] != 1 else ""}
    for name in study_techniques.TECHNIQUES])

# %% [markdown]
# Two things must hold whatever the ranking is: on glyphs plain distillation is far ahead of training alone (the band
# leaves room for other seeds), and no technique had a larger budget.

# %% tags=["nbval-check-output"]
gap = np.mean(per_seed("test_accuracy", PLAIN)) - np.mean(
    per_seed("test_accuracy", "alone"))
check("plain distillation beats training alone", 100 * gap,
      low={"glyphs": 5, "fashion_mnist": -1})
check("every technique tried as many settings", len(
    {len(t.settings) for t in study_techniques.TECHNIQUES.values()}) == 1)

# %% [markdown]
# ## 7. Fine-tuning: the large model keeps the small one's knowledge
#
# The second description: fine-tune the large model and keep what the small one knows. Why would anybody want that?
# Say the small model is in use, and the large one is to replace it. Users are used to what the small one gets right;
# an image that it got right and the large one gets wrong is a [*negative flip*](../course/glossary.md#negative-flip), and it hurts more than its share of
# the error rate (Yan et al. 2021). So fine-tune the large model with a second term:
#
#     L = CE(labels, large) + λ · T² · KL(small ‖ large)
#
# λ = 0 is plain fine-tuning. Expect a frontier: the larger λ, the more the large model agrees with the small one, and
# the nearer its accuracy comes to that of the small one.

# %%
def retention(weight):
    def loss(model, batch):
        z = model(batch.images)
        kept = losses.soft_target_loss(z, batch.teacher_logits, 4.0)
        return losses.hard_label_loss(z, batch.labels) + weight * kept, {}
    return loss


def against_small(z):
    flipped = (z_s.argmax(1) == labels) & (z.argmax(1) != labels)
    return {"accuracy": score(z, labels)["accuracy"],
            "agreement": compare(z, z_s)["agreement"],
            "negative flips": float(flipped.float().mean())}


weights = [0.0, 0.3, 1.0, 3.0]
small = teacher_cache.record(student, data.train.images, views=8,
                             augmentation=data.augmentation)
tuned = {}
for weight in weights:
    large = copy.deepcopy(teacher)
    training.fit(large, data.train, retention(weight), Schedule(
        steps=120, lr=1e-3, views=8), augmentation=data.augmentation,
        teacher=small, what=f"fine-tuning, λ = {weight:g}")
    tuned[weight] = logits(large, data.validation.images)

# %% [markdown]
# For each λ three numbers: accuracy, agreement with the small model, and negative flips.

# %%
frontier = [{"λ": weight, **against_small(z)} for weight, z in tuned.items()]
fig, ax = plots.figure(width=8, height=4.5)
ax.plot([row["agreement"] for row in frontier],
        [row["accuracy"] for row in frontier],
        **{**plots.DISTILLED, "linestyle": ""})
for row in frontier:
    ax.annotate(f"λ = {row['λ']:g}", (row["agreement"], row["accuracy"]),
                xytext=(8, 6), textcoords="offset points")
before = against_small(z_t)
ax.plot(before["agreement"], before["accuracy"], label="large, before",
        **plots.TEACHER)
ax.axhline(score(z_s, labels)["accuracy"], label="small model",
           **{**plots.ALONE, "marker": ""})
ax.set(xlabel="agreement with the small model", ylabel="accuracy",
       title="What does agreement cost?")
ax.margins(x=0.15)
ax.legend()
plots.show(fig, "Accuracy of the fine-tuned large model against its "
           "agreement with the small one, one point per λ.",
           [{"λ": "before", **before}, *frontier])

# %% [markdown]
# The claim to hold: the largest λ agrees with the small model more than λ = 0 does. The band asks for little: the term
# acts on training images, and what it changes on new ones is smaller.

# %% tags=["nbval-check-output"]
gained = frontier[-1]["agreement"] - frontier[0]["agreement"]
check("the retention term raises agreement", 100 * gained,
      low={"glyphs": 0.5, "fashion_mnist": 0, "mnist": -0.5})

# %% [markdown]
# Read the last column of the table too: does the retention term lower the negative flips, or does it merely make the
# large model wrong where the small one is wrong? Agreement is the wrong thing to ask for if flips are what hurts.
#
# ## 8. Learning without forgetting
#
# The other direction is [Learning without Forgetting](../course/glossary.md#learning-without-forgetting) (Li and Hoiem 2016). A small model knows some classes. Now the
# large one shall teach it new ones, and only images of the new classes are at hand. Fine-tune naively and the old
# classes go. The mend uses nothing but soft targets: *before* the first step, record what the small model itself says
# about the new images, at the old classes' outputs; then keep it saying so.
#
#     L = L_new(large model's soft targets)  +  λ · T² · KL(old answers ‖ answers now)      T = 2
#
# (The paper writes the second term as a cross-entropy without T²; so its λ = 1 is ¼ here.) The first seven tenths of
# the classes are old, the others new.

# %%
k = round(0.7 * C)


def of(image_set, old):
    return image_set.subset((image_set.labels < k) == old)


def new_task(weight):
    def loss(model, batch):
        z, target = model(batch.images), batch.teacher_logits
        kept = losses.soft_target_loss(z[:, :k], target[:, :k], 2.0)
        new = losses.soft_target_loss(z[:, k:], target[:, k:], T)
        return new + weight * kept, {"new": new, "kept": kept}
    return loss


old, new = of(data.train, True), of(data.train, False)

# %% [markdown]
# First the veteran: a student that was distilled on the old classes alone, and whose other outputs mean nothing yet.

# %%
def old_task(model, batch):
    z, target = model(batch.images), batch.teacher_logits
    return losses.soft_target_loss(z[:, :k], target[:, :k], T), {}


torch.manual_seed(0)
veteran = models.build("student", C, data.in_channels)
_ = training.fit(veteran, old, old_task,
                 teacher=teacher_cache.record(teacher, old.images))

# %% [markdown]
# The targets for the second phase are one table per image: the veteran's own answers for the old classes, the large
# model's for the new ones. `fit` looks rows up by image, so they can be put side by side. Each model is then asked
# three questions about validation images: which of the old classes is this (shown old ones)? Which of the new (shown
# new ones)? And, harder, which of all?

# %%
def three_questions(model, images=data.validation):
    z, y = logits(model, images.images), images.labels
    is_old = y < k
    old = z[is_old, :k].argmax(1) == y[is_old]
    new = z[~is_old, k:].argmax(1) + k == y[~is_old]
    return {"old task": float(old.float().mean()),
            "new task": float(new.float().mean()),
            "all classes": float((z.argmax(1) == y).float().mean())}


own = teacher_cache.record(veteran, new.images)[0]
large = teacher_cache.record(teacher, new.images)[0]
targets = [torch.cat([own[:, :k], large[:, k:]], 1)]
learned = {"before": veteran}
for weight in (0.0, 1.0, 2.0, 4.0):
    model = copy.deepcopy(veteran)
    training.fit(model, new, new_task(weight), Schedule(steps=600, lr=2e-3),
                 teacher=targets, what=f"new classes, λ = {weight:g}")
    learned[weight] = model

# %% [markdown]
# λ will be chosen by the mean of the first two answers. Look at the first bar of each group: it is what is kept.

# %%
answers = {name: three_questions(m) for name, m in learned.items()}
fig, ax = plots.figure(width=9, height=4.3)
for i, question in enumerate(answers["before"]):
    ax.bar(np.arange(5) + 0.27 * (i - 1), [
        row[question] for row in answers.values()], 0.25, label=question,
        color=(plots.BLUE, plots.ORANGE, plots.GREEN)[i],
        hatch=("", "//", "..")[i], edgecolor="white")
names = ["before", "naive", *(f"λ = {w:g}" for w in (1.0, 2.0, 4.0))]
ax.set_xticks(range(5), names)
ax.set(ylabel="validation accuracy", ylim=(0, 1.25), yticks=np.arange(
    0, 1.1, 0.25), title="Does learning the new mean forgetting the old?")
ax.legend(ncols=3, loc="upper center")
plots.show(fig, "Accuracy on the old task, the new task and all classes, "
           "before, after naive fine-tuning, and with three weights of the "
           "Learning-without-Forgetting term.",
           [{"model": name, **row} for name, row in zip(
               names, answers.values(), strict=True)])

# %% [markdown]
# How much of what naive fine-tuning loses does the term save, and what does it cost on the new task? λ was chosen on
# validation, so this is asked on test images, once.

# %%
best = max((1.0, 2.0, 4.0), key=lambda weight: answers[weight][
    "old task"] + answers[weight]["new task"])
final = {name: three_questions(learned[name], data.test)
         for name in ("before", 0.0, best)}
lost = final["before"]["old task"] - final[0.0]["old task"]
saved = final[best]["old task"] - final[0.0]["old task"]
price = final[0.0]["new task"] - final[best]["new task"]
plots.show_table([{"λ chosen": best, "lost by naive fine-tuning": lost,
                   "share of it saved": saved / lost,
                   "price on the new task": price}])

# %% [markdown]
# The bands ask for less than a good run shows, because one seed is one seed; but a term that did nothing would fail
# them.

# %% tags=["nbval-check-output"]
check("naive fine-tuning forgets", 100 * lost, low=2)
check("Learning without Forgetting saves most of it", saved / lost,
      low={"glyphs": 0.6, "fashion_mnist": 0.3, "mnist": 0.3})
check("at a small price on the new task", 100 * price, high=5)

# %% [markdown]
# The third colour is the honest footnote: told which task an image belongs to, the model does well; asked among *all*
# classes, it has never seen old and new side by side, and nothing in either loss puts the two on one scale.
#
# A third reading of “keep the knowledge” is to start from weights rather than from answers: the rows *cut from the
# teacher* and *SimKD* of the table above are that.
#
# ## 9. BatchNorm: what “does not apply directly” hides
#
# **The teacher must be in eval mode.** In training mode a BatchNorm layer uses the statistics of the batch at hand
# and updates its record; `no_grad` does not stop that. Then an answer depends on who shares the batch, and a recorded
# answer is void.

# %%
careless = copy.deepcopy(teacher).train()
careless.dropout.eval()
few, mates = data.validation.images[:16], data.validation.images[16:400]
norm = careless.features[1]
drift = norm.running_mean.clone()
with torch.no_grad():
    apart = [careless(torch.cat([few, others]))[:16]
             for others in mates.split(112)[:3]]
    together = [logits(teacher, torch.cat([few, others]))[:16]
                for others in mates.split(112)[:3]]
plots.show_table([
    {"teacher in": mode, "largest change of a logit by other batch mates":
        float((answers[0] - answers[1]).abs().max()),
     "change of the recorded mean": float(change)}
    for mode, answers, change in (
        ("train mode", apart, (norm.running_mean - drift).abs().max()),
        ("eval mode", together, 0.0))])

# %% [markdown]
# Both columns are zero, or nearly so, in eval mode alone: only then may an answer be recorded and looked up later.

# %% tags=["nbval-check-output"]
check("in train mode an answer depends on its batch",
      (apart[0] - apart[1]).abs().max().item(), low=0.05)
check("in eval mode it does not",
      (together[0] - together[1]).abs().max().item(), high=1e-3)

# %% [markdown]
# **A cut student needs new statistics.** The record of a narrow network cut out of a wide one belongs to the wide
# network's inputs. Re-estimating it costs one pass over the images and no training
# ([02](02_distill.ipynb) has it in full).

# %%
cut = models.cut_student(teacher, width=16)
before = score(logits(cut, data.validation.images), labels)["accuracy"]
training.reestimate_batch_norm(cut, data.train.images)
after = score(logits(cut, data.validation.images), labels)["accuracy"]
plots.show_table([{"validation accuracy of a cut student": name, "": value}
                  for name, value in (
                      ("with the teacher's statistics", before),
                      ("re-estimated", after), ("guessing", 1 / C))])

# %% [markdown]
# **At export it vanishes.** In eval mode BatchNorm is a fixed scale and shift, and a convolution can take both over:
#
#     W' = W · γ / √(var + ε)         b' = β + γ · (b − mean) / √(var + ε)
#
# The same logits, fewer operations. Distil first, fold last. The milliseconds are of this machine, now.

# %%
folded = batchnorm.fold(student)
costs = {"with BatchNorm": student, "folded": folded}
plots.show_table([
    {"student": name, **{key: value for key, value in evaluation.cost(
        model, data.validation.images[:256]).items() if key != "bytes"}}
    for name, model in costs.items()])

# %% [markdown]
# Half precision would not notice the difference; single precision hardly does.

# %% tags=["nbval-check-output"]
difference = logits(folded, data.validation.images) - z_s
check("folding leaves the logits", difference.abs().max().item(), high=1e-3)

# %% [markdown]
# **Its record is a memory of the data.** [DeepInversion](../course/glossary.md#deepinversion) (Yin et al. 2020) asks which images would give every BatchNorm
# layer the statistics it has recorded, and the teacher the class we want:
#
#     minimise over the pixels   CE(label) + Σ layers ( ‖mean − recorded mean‖ + ‖var − recorded var‖ ) + smoothness
#
# We start from noise and dream a small set of images, the same number for each class. The teacher's weights are all
# that is used. No image of the dataset is looked at.

# %%
wanted = torch.arange(C).repeat(720 // C)
shape = data.train.images.shape[1:]
dreams = batchnorm.invert(teacher, wanted, shape, steps=150)

# %% [markdown]
# What does the teacher dream of? And do the dreams have what they were asked for, statistics like those of real
# images? The real images do not reach zero either: they are but a sample, and the record was made on augmented ones.

# %%
fig, axes = plots.figure(2, 8, width=12, height=3.7)
for c in range(8):
    real = data.train.images[data.train.labels == c][0]
    plots.draw_image(axes[0, c], dreams[c])
    plots.draw_image(axes[1, c], real)
    axes[0, c].set_title(data.classes[c], fontsize=12)
distances, noise = {}, 0.5 + 0.1 * torch.randn(256, *shape)
for name, images in (("dreamt", dreams[:256]), ("noise", noise),
                     ("real", data.train.images[:256])):
    with torch.no_grad():
        _, distance = batchnorm.statistics_loss(teacher, images)
    distances[name] = float(distance)
plots.show(fig, "Above: one dreamt image for each of eight classes. Below: a "
           "real training image of the same class.", [
    {"images": name, "distance of their statistics from the record": value}
    for name, value in distances.items()])

# %% [markdown]
# Look for strokes, for both polarities, for a texture in the background: nobody put them there. But pictures only
# suggest; ask whether a student can learn from them. Distil one from scratch on the dreams alone, with the usual augmentation, and test it on real
# images. Beside it the same student on pure noise, and the one that had the data.

# %%
def distilled_on(images):
    recorded = teacher_cache.record(teacher, images, views=16,
                                    augmentation=data.augmentation)
    torch.manual_seed(0)
    model = models.build("student", C, data.in_channels)
    training.fit(model, ImageSet(images, wanted), soft, Schedule(
        steps=600, views=16), augmentation=data.augmentation,
        teacher=recorded)
    return score(logits(model, data.validation.images), labels)["accuracy"]


def soft(model, batch):
    return recipes.distillation(model, batch, temperature=T)


noise = 0.5 + 0.2 * torch.randn(len(wanted), *shape)
free = {"dreams": distilled_on(dreams), "noise": distilled_on(
    noise.clamp(0, 1)), "the real images": score(z_s, labels)["accuracy"],
    "the teacher itself": score(z_t, labels)["accuracy"],
    "guessing": 1 / C}
plots.show_table([
    {"a student distilled on": name, "validation accuracy": value}
    for name, value in free.items()])

# %% [markdown]
# Two claims with wide bands: above chance, and not worse than noise with the teacher's answers on it.

# %% tags=["nbval-check-output"]
check("a student distilled without data is above chance",
      100 * (free["dreams"] - free["guessing"]),
      low={"glyphs": 15, "fashion_mnist": 10, "mnist": 10})
check("the dreams are worth more than noise",
      100 * (free["dreams"] - free["noise"]),
      low={"glyphs": 10, "fashion_mnist": 0, "mnist": 0})

# %% [markdown]
# The gap to the student that had the data is the price of having none. Published, with larger networks and far longer
# optimisation, it is much smaller; the mechanism is the same.
#
# ## Summary
#
# - The distillation loss splits exactly into a part between groups and parts within them; Decoupled KD and Grouped KD
#   are choices of groups and weights, and groups of look-alikes can be read off the teacher.
# - Whether a technique beats plain distillation is a question for paired seeds, equal tuning and a declared smallest
#   effect; the sentences under the figure are computed from them.
# - Soft targets also *keep* knowledge: they hold a large model near a small one, and let a small one learn new classes
#   without losing its own.
# - BatchNorm applies to distillation in four ways: eval mode, re-estimation, folding, and as a memory of the data.
#
# > **Why your numbers may differ.** Other hardware orders sums differently, so single training runs move, and times
# > move more. The checks of this notebook have bands wide enough for that; the study is read from a file that states
# > its versions.
#
# ## Exercises
#
# 1. **Apply.** Group the classes by hand, in a way that means something to you: `losses.partition([[…], […]], C)`.
#    How much of the student's remaining loss lies between your groups, compared with the figure above?
#    <details><summary>Hint</summary>Leave a class out on purpose first and read the message. The number to compare
#    with is that of as many groups.</details>
# 2. **Change.** Give the dreams' student the plain images without augmentation (`views=0` in both places). Which way
#    does its accuracy move, and why may that differ from what augmentation does to a student on real images?
#    <details><summary>Hint</summary>The teacher's answers to turned and shifted dreams are new information; there are
#    only a few dreams.</details>
# 3. **Investigate.** In Learning without Forgetting the BatchNorm statistics move to the new images as well. How much
#    of the forgetting is theirs? Re-estimate the naive model's statistics on old images and ask again.
#    <details><summary>Hint</summary>`training.reestimate_batch_norm(learned[0.0], old.images)`, then
#    `three_questions`.</details>
#
# ## Next
#
# [08](08_explain_with_deeplift.ipynb) asks the question of the article's title: is a distilled network easier to
# explain?
