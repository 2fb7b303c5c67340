"""Triton source that Inductor writes for random small PyTorch modules; `python -m code_rlm_data.inductor --help`."""
