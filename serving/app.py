"""The service's application: what it is asked, what it answers, and what it refuses."""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import onnx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field, model_validator
from pydantic.config import JsonDict

from code_rlm import __version__
from code_rlm.errors_rlm import InputError, RLMError
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.processing_rlm import CodeInput, context_lines, read_input
from code_rlm.serving.batching import Batcher, QueueFullError

_EXAMPLE: JsonDict = {"text": "add rcx, 8\nvfmadd231ps ymm0, ymm1, ymm2\ncmp rcx, rdx", "language": "x86asm"}


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        body_bytes: Size of the request's body.
        inputs: Inputs in it.
        seconds: Until the answer; 504 after.
    """

    body_bytes: int = 4_000_000
    inputs: int = 256
    seconds: float = 60.0


class Input(BaseModel):
    """One thing to predict for: code as text, or an ONNX graph."""

    model_config = {"json_schema_extra": {"examples": [_EXAMPLE]}, "extra": "forbid"}

    text: str | None = Field(None, description="Code.")
    onnx_base64: str | None = Field(None, description="A serialised onnx.ModelProto in base64, in place of text.")
    language: str | None = Field(None, description="Language, such as python or x86asm; by default what the text is.")
    context: dict[str, str] = Field(default_factory=dict, description="Header lines, such as input_size.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Input":
        if (self.text is None) == (self.onnx_base64 is None):
            raise ValueError("give text or onnx_base64, one of them")
        return self

    def read(self) -> CodeInput:
        """Returns the input; a text that looks like a path is a text all the same.

        Raises:
            InputError: Not readable.
        """
        if self.text is not None:
            return read_input(CodeInput(self.text, self.language, context_lines(self.context)))
        try:
            content = base64.b64decode(self.onnx_base64 or "", validate=True)
        except binascii.Error as error:
            raise InputError(f"onnx_base64 is no base64: {error}") from None
        try:
            model = onnx.load_from_string(content)
        except Exception as error:  # of protobuf's own class, whose package is not a dependency
            raise InputError(f"onnx_base64 is no ONNX model: {error}") from None
        return read_input(model, context=self.context)


class PredictRequest(BaseModel):
    """What to predict."""

    model_config = {
        "json_schema_extra": {"examples": [{"inputs": [_EXAMPLE], "metrics": ["cycles"]}]},
        "extra": "forbid",
    }

    inputs: list[Input] = Field(min_length=1)
    metrics: list[str] | None = Field(
        None, min_length=1, description="In decoding order; by default those of the language."
    )
    interval: float = Field(0.9, gt=0, lt=1, description="Probability that the interval holds.")
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=list, max_length=64)
    above: dict[str, float] = Field(default_factory=dict, description="Limits by metric: also P(more than the limit).")
    strict: bool = Field(False, description="Refuse inputs unlike the training rows.")


class RankRequest(BaseModel):
    """What to rank."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"inputs": [_EXAMPLE, {**_EXAMPLE, "text": "div rcx"}], "metric": "cycles"}]
        },
        "extra": "forbid",
    }

    inputs: list[Input] = Field(min_length=1)
    metric: str
    interval: float = Field(0.9, gt=0, lt=1)


class ExplainRequest(BaseModel):
    """What to explain."""

    model_config = {"json_schema_extra": {"examples": [{"input": _EXAMPLE, "metric": "cycles"}]}, "extra": "forbid"}

    input: Input
    metric: str
    unit: str | None = Field(None, pattern="^(line|block|operator)$")
    most: int = Field(64, ge=2, le=512)


class Answers(BaseModel):
    """One list for each input with an entry for each metric: value, unit, low, high, level, familiarity and others."""

    answers: list[list[dict[str, Any]]]


class Ranking(BaseModel):
    """One entry for each input, the best first."""

    ranking: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the service answers, and with what."""

    status: str
    version: str
    metrics: list[str]


class Monitor:
    """What Prometheus reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "code_rlm"
        self.requests = Counter(f"{name}_requests", "Requests.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(f"{name}_request_seconds", "Time to answer.", ["path"], registry=self.registry)
        self.batch = Histogram(
            f"{name}_batch_inputs",
            "Inputs computed together.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.waiting = Gauge(f"{name}_waiting_inputs", "Inputs that wait or are computed.", registry=self.registry)


def make_app(
    pipe: CodeRegressionPipeline, *, limits: Limits | None = None, api_key: str | None = None, **batching: Any
) -> FastAPI:
    """Returns the application.

    Args:
        pipe: Answers.
        limits: Of one request.
        api_key: What requests must bring as `Authorization: Bearer KEY` or `X-API-Key: KEY`; None: nothing.
        **batching: `most`, `wait_s` and `most_waiting` of `Batcher`.
    """
    limits, monitor = limits or Limits(), Monitor()

    def predict(inputs: list[CodeInput], **options: Any) -> list[list[dict[str, Any]]]:
        answers: Any = pipe(inputs, **options)  # of a list, a list for each input
        return answers

    batcher = Batcher(predict, observe=monitor.batch.observe, **batching)
    monitor.waiting.set_function(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="Code-RLM", version=__version__, lifespan=lifespan, description="Numbers out of code.")
    app.middleware("http")(_watched(limits, monitor))
    app.add_exception_handler(RLMError, _refused)
    app.add_exception_handler(QueueFullError, _busy)
    secured = [Depends(_key_check(api_key))] if api_key else []
    errors: dict[int | str, dict[str, Any]] = {
        code: {"description": text}
        for code, text in {
            400: "Not readable, or unknown to the model",
            413: "Too large",
            503: "Busy",
            504: "Too slow",
        }.items()
    }
    _add_routes(app, pipe, batcher, limits, monitor, {"dependencies": secured, "responses": errors})
    return app


def _add_routes(
    app: FastAPI,
    pipe: CodeRegressionPipeline,
    batcher: Batcher,
    limits: Limits,
    monitor: Monitor,
    shared: dict[str, Any],
) -> None:
    """Adds what can be asked."""

    def read(inputs: list[Input]) -> list[CodeInput]:
        if len(inputs) > limits.inputs:
            raise HTTPException(413, f"{len(inputs)} inputs; at most {limits.inputs} in one request.")
        found = []
        for number, item in enumerate(inputs):
            try:
                found.append(item.read())
            except InputError as error:
                raise InputError(f"Input {number}: {error}") from None
        return found

    async def timely(work: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(work, limits.seconds)
        except asyncio.TimeoutError:
            raise HTTPException(504, f"No answer within {limits.seconds:g} s.") from None

    @app.post("/predict", **shared)
    async def predict(request: PredictRequest) -> Answers:
        """Predicts numbers with intervals."""
        inputs = await asyncio.to_thread(read, request.inputs)
        options = request.model_dump(exclude={"inputs"}, exclude_defaults=True)
        return Answers(answers=await timely(batcher.submit(inputs, options)))

    @app.post("/rank", **shared)
    async def rank(request: RankRequest) -> Ranking:
        """Ranks inputs by one metric, with the probability that each is the best."""
        inputs = await asyncio.to_thread(read, request.inputs)
        work = batcher.run(lambda: pipe.rank(inputs, request.metric, interval=request.interval))
        return Ranking(ranking=await timely(work))

    @app.post("/explain", **shared)
    async def explain(request: ExplainRequest) -> dict[str, Any]:
        """Finds which parts of an input carry its number."""
        [item] = await asyncio.to_thread(read, [request.input])
        work = batcher.run(lambda: pipe.explain(item, request.metric, request.unit, request.most))
        return dict(await timely(work))

    @app.get("/health")
    async def health() -> Health:
        """Answers as long as the service runs."""
        return Health(status="ok", version=__version__, metrics=pipe.model.config.metric_names())

    @app.get("/metrics", response_class=Response, dependencies=shared["dependencies"])
    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(generate_latest(monitor.registry), media_type=CONTENT_TYPE_LATEST)


Handler = Callable[[Request], Awaitable[Response]]


def _watched(limits: Limits, monitor: Monitor) -> Callable[[Request, Handler], Awaitable[Response]]:
    """Returns the middleware that refuses large bodies, and counts and times requests."""

    async def watched(request: Request, handler: Handler) -> Response:
        began = time.perf_counter()
        too_large = JSONResponse({"detail": f"The body has more than {limits.body_bytes} bytes."}, 413)
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limits.body_bytes:
            response: Response = too_large
        elif "content-length" not in request.headers and request.method == "POST":
            response = JSONResponse({"detail": "Content-Length is needed."}, 411)
        else:
            response = await handler(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        monitor.requests.labels(path, str(response.status_code)).inc()
        monitor.seconds.labels(path).observe(time.perf_counter() - began)
        return response

    return watched


def _key_check(api_key: str) -> Callable[..., None]:
    """Returns the dependency that refuses requests without the key."""
    header = APIKeyHeader(name="X-API-Key", auto_error=False)
    bearer = HTTPBearer(auto_error=False)

    def check(
        key: str | None = Depends(header),
        token: HTTPAuthorizationCredentials | None = Depends(bearer),  # noqa: B008
    ) -> None:
        given = key or (token.credentials if token else "")
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            raise HTTPException(401, "The API key is missing or wrong.", {"WWW-Authenticate": "Bearer"})

    return check


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 400)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "Too many inputs wait; try again later."}, 503, {"Retry-After": "1"})


__all__ = ["ExplainRequest", "Input", "Limits", "PredictRequest", "RankRequest", "make_app"]
