"""What cannot be counted from the rows of a data set: how and where its numbers were made, its licence, its traps.

What can be counted (counts, ranges, hardware and versions where they are recorded) is not here: `export_rows` counts it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a card states beside its counts.

    Attributes:
        title: Name for people.
        licence: The hub's name of the licence, such as "mit".
        source: Where texts and numbers come from, with links.
        measured: How the numbers were measured: machine, protocol, what is computed and not measured.
        traps: What misleads whoever does not know it.
        tags: Tags beside those of every card and the rows' languages.
        remake: How the folder is made anew; by default from the task's table.
    """

    title: str
    licence: str
    source: str
    measured: str
    traps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    remake: str = ""


_GRAPHS = (
    "The text is made from the architecture's string by `code_rlm.data.nas_graphs` and `code_rlm.onnx_text_rlm`; no "
    "network was run or exported for it."
)
_HELP = "[HELP](https://github.com/HayeonLee/HELP) (MIT)"
_ISOMORPHS = "Split by the group column. Random splits put copies of one network on both sides."

FACTS: dict[str, Facts] = {
    "bhive_zen4": Facts(
        title="BHive basic blocks on Zen 4",
        licence="mit",
        source="Blocks: [BHive](https://github.com/ithemal/bhive) (MIT), taken from compiled programs such as TensorFlow, "
        "OpenBLAS and ffmpeg. Timings: made anew for this project.",
        measured="Each block was repeated in a loop on one AMD Zen 4 core, all data in the first-level cache; the number is "
        "the median of three passes, in core clock cycles per iteration of the block. It is a throughput, not a "
        "latency from end to end.",
        traps=(
            "Groups are encodings, and blocks resemble each other: 7.4% of the test rows have a near copy in training.",
            "Only blocks without branches, in Intel syntax. Cache misses and front-end stalls of real programs are "
            "not in it.",
            "More than half of the blocks take less than one cycle: a tenth of a cycle is then a large relative error.",
        ),
        tags=("assembly", "x86-64", "basic-blocks"),
    ),
    "tritonbench": Facts(
        title="TritonBench latencies",
        licence="apache-2.0",
        source="[TritonBench](https://github.com/thunlp/TritonBench) (Apache-2.0): kernels from GitHub (set G) and PyTorch "
        "operators (set T), with the performance records that come with them.",
        measured="Recorded by the source: milliseconds of a call at the sizes of the context line, on one GPU that it does "
        "not name.",
        traps=(
            "The input size explains most of the latency. Report a size-only baseline beside every score.",
            "There are few kernels: split by group, and give intervals over kernels, not rows.",
            "Some derived bandwidths and throughputs are 0 in the source.",
        ),
        tags=("triton", "gpu", "kernels"),
    ),
    "codenet_python": Facts(
        title="CodeNet Python submissions (sample)",
        licence="cdla-permissive-2.0",
        source="A sample of [Project CodeNet](https://github.com/IBM/Project_CodeNet) (CDLA-Permissive-2.0).",
        measured="The online judge's own record of each accepted submission: peak memory, which CodeNet keeps in kB (given "
        "in bytes here, times 1024), and CPU time, over its hidden test inputs. Machine and interpreter are not "
        "recorded.",
        traps=(
            "The problem's text and the inputs are not there: how much memory a program needs at which size has to "
            "be guessed.",
            "Memory has a floor, the interpreter that the judge started (2,568 kB is the least), and steps of 4 kB.",
            "Submissions to one problem resemble each other: split by group.",
            "Line breaks were doubled in some texts of the source; the reader takes that back where a text has no "
            "other.",
        ),
        tags=("python", "online-judge"),
    ),
    "leetcode_memory": Facts(
        title="Peak memory of LeetCode solutions",
        licence="mit",
        source="Solutions and calls of [LeetCodeDataset](https://github.com/newfacade/LeetCodeDataset) (MIT); the numbers "
        "are this project's.",
        measured="`code-rlm measure leetcode`: each call in a fresh interpreter with PYTHONHASHSEED=0, and the peak that "
        "tracemalloc saw during the call above what was allocated before; the arguments are made before it is "
        "traced. The calls are those of the data set's asserts and, where an input can grow, larger ones made of "
        "them, of about 50, 500 and 5,000 items.",
        traps=(
            "tracemalloc sees allocations of Python objects, not the process: compare with nothing that was "
            "measured as resident size.",
            "The same solution stands in several rows with other arguments; the context lines distinguish them.",
            "Nobody knows whether a larger input keeps the problem's rules: a solution that raises on one is left "
            "out, not a failure.",
        ),
        tags=("python", "memory", "tracemalloc"),
        remake="code-rlm measure leetcode --data-root DATA --out measured\n"
        "python -m code_rlm_data.cards --task leetcode_memory --data-root measured --out FOLDER",
    ),
    "leetcode_solutions": Facts(
        title="Peak memory of many people's LeetCode solutions",
        licence="mit",
        source="Python solutions of public repositories (MIT) to problems of "
        "[LeetCodeDataset](https://github.com/newfacade/LeetCodeDataset) (MIT), whose asserts give the inputs; the numbers "
        "are this project's.",
        measured="`code-rlm measure leetcode --solutions`: as `leetcode_memory`, on the first assert and on inputs of about "
        "500 and 5,000 items that are the same for all solutions of a problem. The modules that LeetCode's judge imports "
        "are imported before; `xrange` is `range`.",
        traps=(
            "tracemalloc sees allocations of Python objects, not the process.",
            "Solutions of a problem are variants of a few ideas: split by group.",
            "Solutions in Python 2 fail where more than `xrange` and `print` differ.",
            "Nobody knows whether a larger input keeps the problem's rules: a solution that raises on one is left "
            "out, not a failure.",
        ),
        tags=("python", "memory", "tracemalloc"),
        remake="code-rlm measure leetcode --data-root DATA --solutions TABLE --sizes 500 5000 --out measured\n"
        "python -m code_rlm_data.cards --task leetcode_solutions --data-root measured --out FOLDER",
    ),
    "polyglot_memory": Facts(
        title="polyglot-memory",
        licence="apache-2.0",
        source="Generated from one internal form by `code_rlm_data.generator`; no program is anyone's submission. "
        "Apache-2.0, like the package. A problem (the group) is one skeleton: one to three algorithms with the "
        "formulas that make it compute what it computes. Its rows are variants (sizes, element types, in place or "
        "copied, stored or streamed, helpers, distractors) in all languages that can write it. A program reads "
        "nothing and prints one number.",
        measured="One run of each program, alone in its process tree, by the kernel's accounting of that process and none "
        "before it: peak resident size with the runtime's own, user and system time with the start included; "
        "`idle_peak_rss_bytes` is what a program of the language needs that does nothing. What is compiled was "
        "compiled once, with optimisation. Every program had to print the number that the same internal form gives "
        "in Python or C; otherwise its outcome is wrong_answer. Limits: 10 s of CPU, 1 GiB.",
        traps=(
            "The programs are synthetic, and from one generator: names, layouts and idioms vary, but less than "
            "people do.",
            "Peak resident size includes the runtime: compare within a language, or subtract `idle_peak_rss_bytes`.",
            "Memory that is allocated and never touched is not resident: `calloc` of a table that is hardly used "
            "costs little.",
            "CPU time was measured beside other work on the machine; memory hardly minds, time does.",
            "Languages that lack a container in their standard library do not have the problems that need it.",
        ),
        tags=("memory", "synthetic"),
        remake="data/code_rlm_data/generator/install_toolchains.sh\npython -m code_rlm_data.generator --help   # four commands",
    ),
    "polyglot_range": Facts(
        title="polyglot-range",
        licence="apache-2.0",
        source="Written by `code_rlm_data.plain` from templates made for it; no program is anyone's submission. Apache-2.0, "
        "like the package. A group is one task (a sieve, a map of strings, hello world) in all languages that have a "
        "template for it. Its rows differ in size, names, spelling of numbers, where a size is declared, layout and "
        "alternatives of the template. A program reads nothing and prints a line or a few.",
        measured="One run of each program, alone in its process tree, by the kernel's accounting of that process and none "
        "before it: peak resident size with the runtime's own, user and system time with the start included; "
        "`idle_peak_rss_bytes` is what a program of the language needs that does nothing. What is compiled was "
        "compiled once, with optimisation. What a program prints was not checked. Limits: 20 s of CPU, 40 s, 4 GiB; the "
        "heap of Java is limited to 4 GiB too. Python runs without site packages, so that no program uses NumPy.",
        traps=(
            "CPU time was measured on a core that other work shared, at a higher share: caches and memory bandwidth were "
            "not the program's own, and times of memory-bound programs are up to twice those of an idle machine.",
            "Rows that ran into a limit have no number: the largest times and sizes are missing more often than others.",
            "The sizes were drawn for a range of memory and time, on a logarithmic scale; programs of people are smaller.",
            "Peak resident size includes the runtime: compare within a language, or subtract `idle_peak_rss_bytes`.",
            "A size in the text is not always memory: arrays that are never touched, and loops that a compiler replaces "
            "by their result, are there on purpose.",
            "A task has one to three templates in a language: variants of a group are near copies of each other.",
        ),
        tags=("memory", "synthetic"),
        remake="data/code_rlm_data/generator/install_toolchains.sh\npython -m code_rlm_data.plain --help   # four commands",
    ),
    "inductor_triton": Facts(
        title="Triton modules of Inductor",
        licence="apache-2.0",
        source="Random small PyTorch modules made by `code_rlm_data.inductor` and compiled by PyTorch's Inductor; nobody's "
        "code is in it but what Inductor writes. Apache-2.0, like the package.",
        measured="`latency_ms`, where a GPU was there: median of `triton.testing.do_bench` over calls of the whole compiled "
        "module, after Inductor's own tuning of its block sizes. Without a GPU the rows have no number, and the "
        "outcome is whether every kernel compiles for the device that `hardware` names.",
        traps=(
            "The modules are random: no one's workload has their mix of operators.",
            "Matrix products and convolutions are calls of libraries and have no source in the text.",
            "Source written for a described device that was not there is what Inductor would write for it, not what "
            "ran.",
        ),
        tags=("triton", "gpu", "kernels", "synthetic"),
        remake="python -m code_rlm_data.inductor --out FOLDER",
    ),
    "networks_cpu": Facts(
        title="ONNX networks on one CPU core",
        licence="apache-2.0",
        source="Drawn by `code_rlm_data.networks`: convolutional classifiers, detection, segmentation, super-resolution, "
        "transformers, recurrent networks, signals, videos, points, tables and graphs, 50 families in all, with drawn depths, "
        "widths, resolutions, batches, activations and spellings; about one in seven is quantised (QDQ, int8 weights). Weights "
        "are random. Nobody's network is in it. Apache-2.0, like the package.",
        measured="onnxruntime with one thread and its default optimisations, one forked process for each network, pinned to "
        "one core. `latency_ms@cpu`: median over runs of the CPU time of one run, at least three runs and 0.3 s of them, "
        "after up to three that do not count; with one thread CPU time is the latency on an idle core, and it hardly "
        "depends on what else the machine does. "
        "`peak_memory_bytes@cpu`: growth of the resident memory from before the model is loaded to the peak, "
        "with weights inside the file, so that loading and packing them counts.",
        traps=(
            "Latency is about proportional to multiply-adds within a kind of operator: report it beside every score.",
            "Groups share a skeleton; a harder split leaves whole families out (the group's first word).",
            "The machine was busy: caches and memory bandwidth were shared. The fastest run is about a tenth faster than "
            "the median.",
            "Memory has a floor of some 19 MB, what a session of onnxruntime needs.",
            "With weights in a file beside the model, which onnxruntime maps, the peak is lower.",
            "On x86, onnxruntime fuses few operators whose data is int8; uint8 data with int8 weights is what its own "
            "quantiser makes, and twice as frequent here.",
        ),
        tags=("onnx", "onnxruntime", "latency", "memory", "synthetic"),
        remake="python -m code_rlm_data.networks measure --out RUN --seeds 0 5000 --core 1\n"
        "python -m code_rlm_data.networks export --run RUN --out FOLDER",
    ),
    "nasbench201": Facts(
        title="NAS-Bench-201 as graphs: accuracy and latency",
        licence="mit",
        source=f"Accuracy: [NATS-Bench](https://github.com/D-X-Y/NATS-Bench) (MIT). Latency: {_HELP}. {_GRAPHS}",
        measured="Accuracy in percent after training for 200 epochs (12 for the metric with that in its name) on CIFAR-10, "
        "CIFAR-100 "
        "and ImageNet 16x16. Latency in milliseconds of one forward pass on the device after the @; a number after "
        "a GPU's name is the batch. Parameters and operations are computed and not measured.",
        traps=(
            "Latencies under 0.05 ms on pixel3 (183 rows) and raspi4 (128) belong to cells that connect nothing. "
            "They are one group, `disconnected`.",
            "Latency on Eyeriss comes from a model of the chip: it has hardly any noise, and scores near 1 mean "
            "little.",
            "Accuracies stand close together: ranks among the best cells are within the noise of training.",
            _ISOMORPHS,
        ),
        tags=("onnx", "neural-architecture-search", "latency"),
    ),
    "nasbench101": Facts(
        title="NAS-Bench-101 as graphs: accuracy",
        licence="apache-2.0",
        source="[NAS-Bench-101](https://github.com/google-research/nasbench) (Apache-2.0), a part of its cells. "
        + _GRAPHS,
        measured="CIFAR-10 validation accuracy in percent after 108 epochs; extra metrics after 4, 12 and 36 epochs and the "
        "seconds of training, on TPU v2. Parameters are computed and not measured.",
        traps=(
            "The cells are isomorphic representatives of the original ones: strings differ from those of the "
            "source, networks do not.",
            "A few trainings failed: 30 cells are under 20%. They are real rows, and squared errors hang on them.",
            "`read_task(..., split='flan_train')` and `'flan_test'` are the splits of the FLAN predictor; those of "
            "the card are by hash.",
            _ISOMORPHS,
        ),
        tags=("onnx", "neural-architecture-search"),
    ),
    "nasbench_macro": Facts(
        title="NAS-Bench-Macro as graphs: accuracy",
        licence="apache-2.0",
        source="[NAS-Bench-Macro](https://github.com/xiusu/NAS-Bench-Macro) (Apache-2.0). " + _GRAPHS,
        measured="CIFAR-10 test accuracy in percent, the mean of three trainings. Parameters and operations are computed and "
        "not measured.",
        traps=("Operations of the source leave out batch norms, other spaces of this project count them.",),
        tags=("onnx", "neural-architecture-search"),
    ),
    "accel_nasbench": Facts(
        title="Accel-NASBench as graphs: proxy accuracy and speed on accelerators",
        licence="apache-2.0",
        source="[Accel-NASBench](https://github.com/afzalxo/Accel-NASBench) (Apache-2.0). " + _GRAPHS,
        measured="Top-1 accuracy in percent on ImageNet under the source's shortened training; images per second on A100, "
        "RTX 3090, TPU v2 and v3, and the FPGAs ZCU102 and VCK190; milliseconds on the FPGAs. Parameters and "
        "multiply-accumulates are computed.",
        traps=(
            "The accuracy is that of a cheap proxy training: use its ranks, not its level.",
            "The activation is not in the tables; the graphs have ReLU, as MnasNet.",
            "Not every network was run on every device: missing values are null.",
        ),
        tags=("onnx", "neural-architecture-search", "latency", "throughput"),
    ),
    "fbnet": Facts(
        title="FBNet as graphs: latency",
        licence="mit",
        source=f"{_HELP}. {_GRAPHS}",
        measured="Milliseconds of one forward pass on the device after the @; a number after a GPU's name is the batch. "
        "Parameters and operations are computed and not measured.",
        traps=(
            "Latency on the 2080 Ti at batch 1 hardly follows the operations (rank correlation .20).",
            "Images are 32x32 with 100 classes, as in the source's tables, not ImageNet's.",
        ),
        tags=("onnx", "neural-architecture-search", "latency"),
    ),
    "ofa": Facts(
        title="Once-for-all MobileNetV3 as graphs: latency",
        licence="mit",
        source=f"{_HELP}; the space is that of [Once-for-all](https://github.com/mit-han-lab/once-for-all). {_GRAPHS}",
        measured="Milliseconds of one forward pass on the GPU after the @; the number after its name is the batch. The "
        "input's resolution is in the graph.",
        traps=(
            "On a 2080 Ti at batch 1 the depth decides (rank correlation .74) and the resolution not at all (.00); at "
            "batch 64 it is the other way round (.29 and .89). Say which device and batch a score is of.",
        ),
        tags=("onnx", "neural-architecture-search", "latency"),
    ),
    "darts": Facts(
        title="DARTS cells as graphs: accuracy",
        licence="unknown",
        source="Genotypes and accuracies as published with [SWAP-NAS](https://github.com/pym1024/SWAP), whose licence for "
        "them is not stated. " + _GRAPHS,
        measured="CIFAR-10 validation accuracy in percent, by the source's own training.",
        traps=(
            "A few hundred cells: scores move by several points of tau with the seed of the split. Give intervals.",
            "One node of one genotype has two operators `none`; its value is zero, as DARTS computes it.",
        ),
        tags=("onnx", "neural-architecture-search"),
    ),
    "timm_accuracy": Facts(
        title="timm models: ImageNet accuracy",
        licence="apache-2.0",
        source="Results of [timm](https://github.com/huggingface/pytorch-image-models) (Apache-2.0). The text is the "
        "module tree that PyTorch prints for the model, built without weights by the timm that is installed.",
        measured="Top-1 and top-5 accuracy in percent on ImageNet's validation images at the size of the context line, by "
        "the source.",
        traps=(
            "What a model was pretrained on decides more than its architecture: the tag is a context line.",
            "Families are groups. A model's name is not in the text, but the classes of its modules are.",
            "Rows whose model the installed timm no longer knows are left out.",
        ),
        tags=("pytorch", "timm", "image-classification"),
    ),
    "timm_speed": Facts(
        title="timm models: speed of inference and training",
        licence="apache-2.0",
        source="Benchmark results of [timm](https://github.com/huggingface/pytorch-image-models) (Apache-2.0). The text is "
        "the module tree that PyTorch prints for the model, built without weights by the timm that is installed.",
        measured="Images per second and milliseconds of a step over a batch, by the source, on the device after the @, at "
        "the batch, image size, precision and layout of the context lines.",
        traps=(
            "Batches differ from model to model (the largest that fitted), so that steps alone do not compare.",
            "Versions of PyTorch and CUDA differ between benchmark files: `versions` has them.",
            "A row without a time has the outcome runtime_error: the benchmark lists the model and has nothing for it.",
            "Rows whose model the installed timm no longer knows are left out.",
        ),
        tags=("pytorch", "timm", "throughput", "gpu"),
    ),
}

__all__ = ["FACTS", "Facts"]
