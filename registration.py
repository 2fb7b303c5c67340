"""Registers the package's classes with transformers, at once or as soon as transformers' registries are imported.

Registering needs the model's classes, and these need torch: seconds, which `import code_rlm` and `code-rlm --help` should not
take. So while no registry of transformers is imported, a finder on `sys.meta_path` watches imports of transformers and of this
package. It changes nothing about them. When the outermost of them has ended and a registry is there, the classes are
registered and the finder goes. Waiting for the outermost import means that no module is half imported at that time.
"""

import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Who looks up a model type or a task has imported one of these.
_REGISTRIES = (
    "transformers.pipelines",
    "transformers.models.auto.configuration_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.processing_auto",
)
_PACKAGES = ("transformers", __name__.partition(".")[0])


def register_classes() -> None:
    """Registers config, model, tokenizer and pipeline; a second call changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer
    from transformers.pipelines import PIPELINE_REGISTRY

    from code_rlm.configuration_rlm import TASK, RLMConfig
    from code_rlm.loading import DEFAULT_CHECKPOINT
    from code_rlm.modeling_rlm import RLMForConditionalGeneration
    from code_rlm.pipeline_rlm import CodeRegressionPipeline
    from code_rlm.processing_rlm import RLMProcessor
    from code_rlm.tokenization_rlm import RLMTokenizer

    AutoConfig.register(RLMConfig.model_type, RLMConfig, exist_ok=True)
    AutoModel.register(RLMConfig, RLMForConditionalGeneration, exist_ok=True)
    AutoModelForSeq2SeqLM.register(RLMConfig, RLMForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(RLMConfig, fast_tokenizer_class=RLMTokenizer, exist_ok=True)
    AutoProcessor.register(RLMConfig, RLMProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=CodeRegressionPipeline,
            pt_model=AutoModelForSeq2SeqLM,
            default={"model": (str(DEFAULT_CHECKPOINT), None)},
            type="text",
        )


def register_with_transformers() -> None:
    """Registers the classes, now if a registry of transformers is imported, otherwise once one is."""
    if any(name in sys.modules for name in _REGISTRIES):
        register_classes()
    elif not any(isinstance(finder, _ImportWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatch())


class _ImportWatch:
    """Finder that lets the other finders find modules, and registers the classes after the outermost import."""

    def __init__(self) -> None:
        self._state = threading.local()  # imports of another thread are none of this one's

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the spec that the other finders give, with a loader that counts open imports."""
        if name.partition(".")[0] not in _PACKAGES:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _WatchedLoader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    def enter(self) -> None:
        """Notes that an import has begun."""
        self._state.depth = getattr(self._state, "depth", 0) + 1

    def leave(self, succeeded: bool) -> None:
        """Notes that an import has ended; after the outermost the classes are registered if a registry is there."""
        self._state.depth -= 1
        ready = succeeded and self._state.depth == 0 and any(name in sys.modules for name in _REGISTRIES)
        if ready and self in sys.meta_path:
            sys.meta_path.remove(self)
            register_classes()


class _WatchedLoader:
    """A loader that is replaced by the original one when it is used, and reports begin and end of the import."""

    def __init__(self, loader: Any, watch: _ImportWatch):
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Returns what the original loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module as the original loader does."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._watch.enter()
        succeeded = False
        try:
            self._loader.exec_module(module)
            succeeded = True
        finally:
            self._watch.leave(succeeded)


__all__ = ["register_classes", "register_with_transformers"]
