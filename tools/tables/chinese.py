"""The words of the generated tables in Chinese, for README.zh-CN.md; numbers, links and names stay what they are.

Looked up by the English words, whole cell by whole cell: where those change, the table says the new ones in English
rather than old ones in Chinese, and a test names the cell that wants a translation.
"""

import re

WORDS = {
    # Headings of columns, and cells of few words
    "notebook": "笔记本",
    "what it asks": "它要回答的问题",
    "minutes": "分钟",
    "memory": "内存",
    "not yet measured": "尚未测量",
    "all of them, one after the other": "全部，依次运行",
    "the article": "原文",
    "here": "本系列",
    "study": "研究",
    "dataset": "数据集",
    "runs": "运行次数",
    "its claims, by verdict": "各论断的判定",
    "claim": "论断（研究运行前写定的英文原句）",
    "difference, 95 % interval": "差值，95 % 区间",
    "verdict": "判定",
    "seeds": "随机种子数",
    "none: the same runs": "无：同一批运行",
    "improves": "有提升",
    "improves, less than matters": "有提升，但幅度可忽略",
    "worsens": "变差",
    "worsens, less than matters": "变差，但幅度可忽略",
    "no meaningful difference": "无实质差别",
    "inconclusive": "无法定论",
    # What was measured
    "measured by": "衡量指标",
    "relevance on the object": "落在物体上的相关度",
    "do maps foretell what each region is worth?": "归因图能否预示每个区域的作用",
    "does hiding what maps point at cost more?": "遮住归因图所指之处，损失是否更大",
    "how much a little noise moves maps; less is better": "微小噪声使归因图变动多少；越小越好",
    "accuracy when the planted cue lies": "植入的线索误导时的准确率",
    "answers that a tree of depth 8 on the factors of the image foretells": "图像因素上深度为 8 的树能预示的回答比例",
    "accuracy of the tree": "树的准确率",
    "images per CPU-second": "每 CPU 秒处理的图像数",
    "against": "对比对象",
    "ratio (range)": "比值（范围）",
    "asked": "目标",
    # The article's steps
    "the introduction; §3.1, set up the machine": "引言；§3.1 环境配置",
    "step 1: train the large model, θ₁": "步骤 1：训练大模型，得到 θ₁",
    "step 2: compress it by distillation, θ₂; §3.3, hand θ₁ to the small model": (
        "步骤 2：用蒸馏压缩大模型，得到 θ₂；§3.3 将 θ₁ 传递给小模型"
    ),
    "step 3: train the small model, θ₃": "步骤 3：训练小模型，θ₃",
    "steps 4 and 5: test the small and the large model": "步骤 4、5：测试小模型与大模型",
    "§5.1: tune the small model with dropout": "§5.1 用 Dropout 优化小模型",
    "§5.2: make it scale": "§5.2 可扩展性改进",
    "§2.3: compare techniques": "§2.3 相关技术比较",
    "§3.2 and §4: DeepLIFT; debug a classifier that does badly": "§3.2 与 §4：DeepLIFT；调试一个表现不佳的分类器",
    "the title: easier to interpret, easier to read": "标题：更好的可解释性，更好的可读性",
    # Title and question of each notebook
    "Start here": "从这里开始",
    "An article promised that distilling a model makes it easier to explain and to read; this series builds every "
    "step of that article and measures what is true.": (
        "有一篇文章承诺：蒸馏会让模型更容易解释、也更容易读懂。本系列逐步实现文中的每一步，并实测哪些承诺属实。"
    ),
    "Train the teacher": "训练教师",
    "We train the large network from which everything else in this series is distilled, and get to know its "
    "strengths and its weak spots.": "训练一个大网络，后面的学生都由它蒸馏而来；同时弄清它的长处与短处。",
    "What a teacher can hand over": "教师能传授什么",
    "A teacher's answer holds more than a label; this notebook makes that surplus visible, turns it into a loss, "
    "records it once, and cuts a first student out of the teacher's own weights.": (
        "教师的输出比标签包含更多信息：本篇把多出来的部分展示出来，写成损失函数，一次性缓存下来，再从教师自己的权重里裁剪出第一个学生。"
    ),
    "Train the student, and ask what the gain is made of": "训练学生，并追问提升从何而来",
    "One small student is trained in many ways that differ in one thing each, so that every gain can be traced to "
    "its cause.": "用多种方式训练同一个小网络，每次对比只改变一个因素，于是每一分提升都能追溯到来源。",
    "Test both models": "测试两个模型",
    "How good are the teacher, the student alone and the distilled student, and in which ways do they differ that "
    "one accuracy cannot show?": (
        "教师、单独训练的学生和蒸馏得到的学生各有多好？有哪些差别是单看准确率看不出来的？"
    ),
    "Tune the student with dropout": "用 Dropout 调优学生",
    "Dropout is the one tuning knob that the article names; this notebook finds out where in a network it may stand, "
    "and at which rate it helps a small student, trained alone or distilled.": (
        "Dropout 是原文点名的唯一调优手段：它可以放在网络的什么位置？丢弃率取多大时，对单独训练或蒸馏的小网络有用？"
    ),
    "Scaling: what distillation costs, and how it grows": "扩展：蒸馏的开销，以及它如何增长",
    "Distilling a student need not cost more than training it alone; this notebook finds out where the time goes, "
    "takes the teacher out of the step, and carries the same command to many processes.": (
        "蒸馏一个学生不一定比单独训练它更耗时：本篇找出时间花在哪里，把教师的计算移出训练步骤，再用同一条命令在多个进程上训练。"
    ),
    "Techniques compared": "技术比较",
    "The article names three techniques of distillation. We look for the published methods that fit its words, build "
    "them, and ask of each whether it beats plain distillation when all have equal means.": (
        "原文点名了三种蒸馏技术。我们找出与其描述相符的已发表方法，逐一实现，并在同等条件下检验：谁胜过普通蒸馏？"
    ),
    "Explaining with DeepLIFT": "用 DeepLIFT 解释",
    "The title of the article promises that distillation makes a model easier to interpret, and names one tool: "
    "DeepLIFT. Here we find out what the tool can be trusted with, catch a classifier that is right for the wrong "
    "reason, and ask what distillation does to its reasons.": (
        "原文标题承诺蒸馏让模型更易解释，并点名一个工具：DeepLIFT。本篇弄清这个工具在哪些情况下可信，"
        "揪出一个答案对而依据错的分类器，再看蒸馏会怎样改变它的依据。"
    ),
    "A student that can be read": "一个读得懂的学生",
    "The article's title promises a model that is easier to read; here a network is distilled into a decision tree "
    "of a few questions, the tree is drawn, and its price is measured.": (
        "原文标题承诺一个更易读的模型：本篇把网络蒸馏成一棵只问几个问题的决策树，把树画出来，并测量为此付出的代价。"
    ),
}  # fmt: skip
_PARTS = {
    r"<summary>Every claim</summary>": "<summary>全部论断</summary>",
    # Verdicts that are counted: the longer one first.
    r"(\d+) × improves, less than matters": r"\1 × 有提升，但幅度可忽略",
    r"(\d+) × improves": r"\1 × 有提升",
    r"(\d+) × worsens, less than matters": r"\1 × 变差，但幅度可忽略",
    r"(\d+) × worsens": r"\1 × 变差",
    r"(\d+) × no meaningful difference": r"\1 × 无实质差别",
    r"(\d+) × no verdict": r"\1 × 不作判定",
    r"(\d+) × inconclusive": r"\1 × 无法定论",
    r"^no verdict: gate failed \((.+)\)$": r"不作判定：未通过检验（\1）",
    r"^On one thread of (.+), torch (.+):$": r"\1，单线程，torch \2：",
    r" points\b": " 个百分点",
    r" errors\b": " 个错误",
    r" ?\((\d[\d.]*) to (\d[\d.]*)\)": r"（\1 至 \2）",
    r" \(one seed\)": "（仅一个种子）",
    r" \(in preparation\)": "（准备中）",
    r", (?=\d+ × )": "；",
    r", (?=\[)": "、",
}


def chinese(table: str) -> str:
    """A generated table of README.md with its words in Chinese."""
    return "\n".join(re.sub(r"(?:\\\||[^|])+", _cell, line) for line in table.splitlines())


def _cell(found: re.Match) -> str:
    words = found[0].strip()
    space, end = found[0].split(words) if words else (found[0], "")
    if words in WORDS:
        return f"{space}{WORDS[words]}{end}"
    words = re.sub(r"\[([^\]]+)\](?=\()", lambda link: f"[{WORDS.get(link[1], link[1])}]", words)
    for english, said in _PARTS.items():
        words = re.sub(english, said, words)
    return f"{space}{words}{end}"
