"""ONNX networks of many families with their latency and memory on one CPU core.

python -m code_rlm_data.networks --help
"""

from code_rlm_data.networks.generate import FAMILIES, Network, draw_network

__all__ = ["FAMILIES", "Network", "draw_network"]
