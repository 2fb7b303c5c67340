"""Tools that make and describe data sets for Code-RLM: a program generator, a measuring harness, cards, proxies.

    code-rlm measure solutions/ --out measured                       # time and memory of programs
    python -m code_rlm_data.generator --help                         # generated programs in 19 languages
    python -m code_rlm_data.cards --task bhive_zen4 --data-root DATA --out bhive_zen4
    python -m code_rlm_data.inductor --out DATA/inductor_triton      # Triton kernels of random modules
    python -m code_rlm_data.proxies --help                           # training-free scores of ONNX graphs
    python -m code_rlm_data.source_text --out source.parquet         # source text with static measures

The package is a distribution of its own, `code-rlm-data`. It imports `code_rlm`; `code_rlm` imports nothing of it, except
that the command `code-rlm measure` starts `code_rlm_data.measure.run`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("code-rlm-data")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
