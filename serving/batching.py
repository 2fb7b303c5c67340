"""Requests that arrive together are answered together: a queue, one thread that computes, batches by what is asked."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from code_rlm.errors_rlm import RLMError
from code_rlm.processing_rlm import CodeInput

Answers = list[list[dict[str, Any]]]


class QueueFullError(Exception):
    """More inputs wait than are allowed to."""


@dataclass
class _Job:
    inputs: Sequence[CodeInput]
    options: Mapping[str, Any]
    future: "asyncio.Future[Answers]"

    @property
    def key(self) -> str:
        return json.dumps(self.options, sort_keys=True)


@dataclass
class Batcher:
    """Collects jobs and answers those with the same options in one call.

    Attributes:
        predict: Answers inputs with options, such as a pipeline.
        most: Inputs in one call.
        wait_s: Seconds that the first job of a batch waits for others.
        most_waiting: Inputs that may wait; more are refused.
        observe: Called with the number of inputs of each call.
    """

    predict: Callable[..., Answers]
    most: int = 32
    wait_s: float = 0.005
    most_waiting: int = 1024
    observe: Callable[[int], None] = lambda count: None
    waiting: int = 0
    _queue: "asyncio.Queue[_Job]" = field(default_factory=asyncio.Queue)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "code-rlm"))
    _worker: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Starts to answer; call it inside the event loop."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answers what waits, then ends."""
        await self._queue.join()
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown()

    async def submit(self, inputs: Sequence[CodeInput], options: Mapping[str, Any]) -> Answers:
        """Returns the answers of some inputs.

        Raises:
            QueueFullError: Too many wait.
            RLMError: As `predict` raises it.
        """
        if self.waiting + len(inputs) > self.most_waiting:
            raise QueueFullError
        job = _Job(inputs, options, asyncio.get_running_loop().create_future())
        self.waiting += len(inputs)
        await self._queue.put(job)
        return await job.future

    async def run(self, work: Callable[[], Any]) -> Any:
        """Runs other work in the thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _work(self) -> None:
        held: _Job | None = None
        while True:
            jobs = [held or await self._queue.get()]
            held = None
            deadline = time.monotonic() + self.wait_s
            while held is None and sum(len(job.inputs) for job in jobs) < self.most:
                try:
                    job = await asyncio.wait_for(self._queue.get(), max(deadline - time.monotonic(), 0))
                except asyncio.TimeoutError:
                    break
                if job.key == jobs[0].key:
                    jobs.append(job)
                else:
                    held = job  # begins the next batch
            await self._answer([job for job in jobs if not job.future.cancelled()], len(jobs), jobs)

    async def _answer(self, asked: Sequence[_Job], taken: int, jobs: Sequence[_Job]) -> None:
        """Answers jobs in one call; where that fails, each in a call of its own, so that one bad input harms no other."""
        try:
            if asked:
                whole = [item for job in asked for item in job.inputs]
                self.observe(len(whole))
                try:
                    answers = await self.run(lambda: self.predict(whole, **asked[0].options))
                except RLMError:
                    await self._answer_one_by_one(asked)
                else:
                    start = 0
                    for job in asked:
                        self._set(job, answers[start : start + len(job.inputs)])
                        start += len(job.inputs)
        except Exception as error:
            for job in asked:
                self._fail(job, error)
        finally:
            for job in jobs:
                self.waiting -= len(job.inputs)
            for _ in range(taken):
                self._queue.task_done()

    async def _answer_one_by_one(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            try:
                self._set(job, await self.run(partial(self.predict, list(job.inputs), **job.options)))
            except RLMError as error:
                self._fail(job, error)

    @staticmethod
    def _set(job: _Job, answers: Answers) -> None:
        if not job.future.done():
            job.future.set_result(answers)

    @staticmethod
    def _fail(job: _Job, error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(error)


__all__ = ["Answers", "Batcher", "QueueFullError"]
