"""The HTTP service: `code-rlm serve`, extra `serve`."""
