"""`code-rlm serve`: predictions over HTTP.

    code-rlm serve --port 8000 --api-key-file key.txt
    curl localhost:8000/predict -H 'X-API-Key: ...' -H 'Content-Type: application/json' -d '{"inputs": [{"text": "div rcx"}]}'

`/docs` describes the requests. On SIGTERM or Ctrl-C the service takes no more requests, answers those that it has, and ends.
"""

import argparse
import os
from pathlib import Path

import torch
import uvicorn
from transformers.utils import logging

from code_rlm.console import log
from code_rlm.errors_rlm import InputError
from code_rlm.loading import pipeline
from code_rlm.serving.app import Limits, make_app

KEY_VARIABLE = "CODE_RLM_API_KEY"


def serve(args: argparse.Namespace) -> int:
    """Runs the command until it is stopped; returns 0.

    Raises:
        InputError: An API key that cannot be read.
        RLMError: A checkpoint that cannot be loaded.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    key = read_key(args.api_key_file)
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = pipeline(args.model, device=args.device)
    pipe("add rax, 1", metrics=pipe.model.config.metric_names()[:1])  # the first answer is slower than all later ones
    limits = Limits(args.max_body_bytes, args.max_inputs, args.timeout)
    batching = {"most": args.batch_size, "wait_s": args.batch_wait_ms / 1e3, "most_waiting": args.max_waiting}
    app = make_app(pipe, limits=limits, api_key=key, **batching)
    if key is None and args.host not in ("127.0.0.1", "localhost", "::1"):
        log(f"code-rlm serve: without an API key everybody who reaches {args.host} can ask; set {KEY_VARIABLE}")
    uvicorn.run(
        app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=int(args.timeout) + 1
    )
    return 0


def read_key(path: str | None) -> str | None:
    """Returns the API key of a file or of the environment, None where there is none.

    Raises:
        InputError: The file cannot be read, or is empty.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"--api-key-file {path} cannot be read: {error}.") from None
    if not key:
        raise InputError(f"--api-key-file {path} is empty.")
    return key


__all__ = ["KEY_VARIABLE", "read_key", "serve"]
