"""The paper's figures, from where they are, and what keeps them apart from ours."""

from dataclasses import dataclass

SOURCE = '"Regression Language Models for Code", arXiv 2509.26476 v3 (ICML 2026)'


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper.

    Attributes:
        task: Our task on the same data or the nearest to it.
        metric: Our metric, without the device where all devices are meant.
        score: Its name in our reports.
        value: The paper's figure.
        where: Which of its results it is.
        comparable: Whether ours can be held against it, and why not.
    """

    task: str
    metric: str
    score: str
    value: float
    where: str
    comparable: str

    def about(self, task: str, metric: str) -> bool:
        """Whether it belongs beside a metric of a task."""
        # Metrics of the judge have had names with and without the judge after the @.
        return task == self.task and metric.removesuffix("@codenet") == self.metric


_JOINT = "NAS-Bench-201, five objectives in one model (accuracy, then four latencies): {}"
_DEVICE = (
    "Nearly: the same latency table and one model for all objectives. Ours are classes of isomorphic cells of which none was "
    "trained on; the paper describes no such grouping{}"
)
_THOUSAND = "fine-tuning on 1,000 architectures, {} after"
FIGURES = (
    PaperFigure(
        "nasbench201",
        "cifar10_valid_accuracy_percent",
        "spearman",
        0.738,
        _THOUSAND.format("NB201"),
        "No: it saw 1,000 architectures of the space, ours the whole training split; it was pretrained on other spaces.",
    ),
    PaperFigure("nasbench201", "latency_ms@pixel3", "spearman", 0.731, _JOINT.format("Pixel3"), _DEVICE.format(".")),
    PaperFigure("nasbench201", "latency_ms@eyeriss", "spearman", 0.466, _JOINT.format("Eyeriss"), _DEVICE.format(".")),
    PaperFigure(
        "nasbench201",
        "latency_ms@gold_6226",
        "spearman",
        0.960,
        _JOINT.format("Intel CPU"),
        _DEVICE.format("; which Intel CPU of the table it took is not known to us."),
    ),
    PaperFigure(
        "nasbench201",
        "latency_ms@2080ti_1",
        "spearman",
        0.939,
        _JOINT.format("Nvidia GPU"),
        _DEVICE.format("; which GPU and batch of the table it took is not known to us."),
    ),
    PaperFigure(
        "nasbench101",
        "cifar10_valid_accuracy_percent",
        "spearman",
        0.838,
        "ablation of the context length on NB101, 4K tokens",
        "No: it was trained on 381,000 architectures of the space and reads them as printed ONNX.",
    ),
    PaperFigure(
        "nasbench101",
        "cifar10_valid_accuracy_percent",
        "spearman",
        0.734,
        _THOUSAND.format("NB101"),
        "No: it saw 1,000 architectures of the space, ours those of its training split.",
    ),
    PaperFigure(
        "tritonbench",
        "latency_ms",
        "spearman",
        0.516,
        "Triton, 1,024 programs",
        "No: other kernels (KernelBook modules written by Inductor, on an RTX A6000), split at random; ours are kernels of "
        "TritonBench at several input sizes, which a predictor of the size alone ranks well, split by kernel.",
    ),
    PaperFigure(
        "codenet_python",
        "peak_memory_bytes",
        "spearman",
        0.647,
        "CodeNet by language, Python, 1,024 programs",
        "No: the same judge's numbers, but it was trained on 7.4 million submissions and its problems are in both splits; ours "
        "on about a thousand submissions, and no problem is in two splits.",
    ),
    PaperFigure(
        "leetcode_memory",
        "peak_memory_bytes",
        "spearman",
        0.930,
        "APPS LeetCode, 1,024 programs",
        "No: other programs and inputs, the problem's statement in the text, and problems in both splits; ours are split by "
        "problem. The same measure: the peak of tracemalloc.",
    ),
    PaperFigure(
        "leetcode_memory",
        "peak_memory_bytes",
        "spearman",
        0.85,
        "APPS LeetCode without the problem's statement",
        "No: problems are in both splits there; like ours it does not read the statement.",
    ),
)

__all__ = ["FIGURES", "SOURCE", "PaperFigure"]
