"""Load test of `code-rlm serve`: requests each second, median and 99th percentile of the time to answer.

    code-rlm serve --port 8000 &
    python benchmarks/serve_load.py --url http://127.0.0.1:8000 --clients 1 8 32 --seconds 20

Each client sends one input after the other, basic blocks of a few instructions that differ, so that nothing could be cached.
"""

import argparse
import asyncio
import random
import time

import httpx
import numpy as np

INSTRUCTIONS = (
    "add rax, rbx", "imul rcx, rdx", "mov rsi, qword ptr [rdi]", "vaddps ymm0, ymm1, ymm2", "lea r8, [rax + 4*rcx]",
    "xor edx, edx",
    "shl rax, 3", "vfmadd231ps ymm3, ymm4, ymm5", "mov qword ptr [rdi + 8], rax", "cmp rcx, rdx",
)  # fmt: skip


async def client(url: str, until: float, number: int, seconds: list[float]) -> None:
    """Sends requests until a time of the monotonic clock, and notes how long each took."""
    drawn = random.Random(number)
    async with httpx.AsyncClient(timeout=60) as session:
        while time.monotonic() < until:
            text = "\n".join(drawn.choice(INSTRUCTIONS) for _ in range(drawn.randint(2, 10)))
            body = {"inputs": [{"text": text, "language": "x86asm"}], "metrics": ["cycles"]}
            began = time.monotonic()
            answer = await session.post(f"{url}/predict", json=body)
            answer.raise_for_status()
            seconds.append(time.monotonic() - began)


async def measure(url: str, clients: int, duration: float) -> None:
    """Prints one line of figures."""
    seconds: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(client(url, began + duration, number, seconds) for number in range(clients)))
    took = time.monotonic() - began
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    print(f"{clients:3} clients: {len(seconds) / took:7.1f} requests/s, median {p50:7.1f} ms, 99% {p99:7.1f} ms")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="clients at once [1 8 32]")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each line [20]")
    args = parser.parse_args()
    for clients in args.clients:
        asyncio.run(measure(args.url, clients, args.seconds))


if __name__ == "__main__":
    main()
