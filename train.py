"""Trains a regression language model with accelerate: from scratch, around a pretrained encoder, or from a checkpoint.

    python train.py --config configs/default.yaml --data-root DATA
    accelerate launch train.py --config configs/default.yaml        # several processes, the same file, the same batches
    code-rlm train --config mine.yaml --steps 100 --out runs/try
    code-rlm train --config mine.yaml --dry-run                  # what it would do

The options are in `training.options`: nested groups of typed fields, from a YAML file and flags. The resolved options are saved
beside the checkpoint. A killed run resumes from its last checkpoint when the same command is given again. Checkpoints appear
whole or not at all.

A run's folder holds `step-N/` (the last `checkpointing.keep` checkpoints), `best/` (the best on the validation rows), `final/`
(what to use; with LoRA the merged model, and the adapter in `adapter/`), `log.jsonl` and `options.yaml`. Two runs cannot write
into one folder, and files that no run wrote are left alone.
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from code_rlm import cli
from code_rlm.console import write_facts
from code_rlm.data.mixture import BatchStream, Mixture, Source, share
from code_rlm.data.streamed import StreamSource
from code_rlm.evaluation.encoding import RowEncoder
from code_rlm.evaluation.shards import to_own_device
from code_rlm.loading import load, write_adapter_config
from code_rlm.local_attention_rlm import ATTENTION as LOCAL_ATTENTION
from code_rlm.local_attention_rlm import is_long
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.adapters import base_of, is_adapted
from code_rlm.training.bundle import check_target, read_bundle, write_bundle
from code_rlm.training.calibration import calibrate_final
from code_rlm.training.checkpoints import (
    BackgroundCopies,
    Progress,
    checkpoints,
    claimed_folder,
    drop_old,
    save_model,
    save_whole,
)
from code_rlm.training.encoder_cache import FeatureCache, possible_inputs
from code_rlm.training.ensemble import fit_ensemble, set_unread
from code_rlm.training.fallback import fit_fallbacks
from code_rlm.training.logs import RunLog, Window, check_trackers
from code_rlm.training.losses import Objective, count_labels
from code_rlm.training.models import (
    build_model,
    check_masked_tokens,
    check_streams,
    choose_head,
    count_parameters,
    load_tokenizer,
    prepare_for_training,
)
from code_rlm.training.optimizers import WeightAverage, build_optimizers, schedule, set_learning_rate
from code_rlm.training.options import TrainError, TrainOptions, full_names
from code_rlm.training.plan import describe
from code_rlm.training.pooling import fit_pooling
from code_rlm.training.sources import Loaded, load_sources, registry
from code_rlm.training.validation import Scores, Validation


@dataclass
class RunData:
    """What a run reads.

    Attributes:
        loaded: The sources, with their training and validation rows.
        weights: Share of the examples of each source that is not for the fallback regressors alone.
        metrics: The metrics registry.
        fitted: The feature ensemble of a bundle, None without a bundle.
    """

    loaded: list[Loaded]
    weights: list[float]
    metrics: list[dict[str, Any]]
    fitted: Any = None

    @property
    def training(self) -> list[Source | StreamSource]:
        """The training rows of each source that is in the mixture."""
        return [each.train for each in self.loaded if not each.fallback_only]

    @property
    def fallback_only(self) -> list[Source]:
        """The rows of sources for the fallback regressors alone."""
        return [each.train for each in self.loaded if each.fallback_only and isinstance(each.train, Source)]

    @property
    def held_out(self) -> list[Source]:
        """The validation rows of the sources in the mixture that have some."""
        return [each.validation for each in self.loaded if each.validation and not each.fallback_only]


def train(options: TrainOptions, log: Callable[[str], None] | None = None) -> Path:
    """Runs training to its end.

    Args:
        options: The configuration.
        log: Gets the lines for people; by default they go to standard error.

    Returns:
        The folder of the final checkpoint; of a dry run the folder it would make, with `data.write_bundle` the file written.

    Raises:
        TrainError: No data, or a run folder that holds another run or is in use.
    """
    check_trackers(options.logging.trackers)
    if options.data.write_bundle and not options.dry_run:
        check_target(options.data.write_bundle)
    out = Path(options.out)
    accelerator = Accelerator(
        mixed_precision=options.runtime.mixed_precision,
        log_with=options.logging.trackers or None,
        project_dir=str(out),
        # Buffers are the same everywhere: every process fits the same ensemble. And no backend sends 16-bit integers.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    writes = accelerator.is_main_process and not options.dry_run and not options.data.write_bundle
    with claimed_folder(out, options) if writes else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        return _train(options, accelerator, log)


def _train(options: TrainOptions, accelerator: Accelerator, log: Callable[[str], None] | None) -> Path:
    """Reads the data, makes the model and trains it, in a folder that this run holds."""
    out = Path(options.out)
    set_seed(options.seed)
    if accelerator.device.type == "cuda":
        # cuDNN's attention makes a plan for every new shape, 17 ms of an H100's processor each; batches rarely have the same.
        torch.backends.cuda.enable_cudnn_sdp(False)
    run_log = RunLog(accelerator, out / "log.jsonl", options.schedule.steps, log)
    tokenizer = load_tokenizer(options)
    data = read_data(options, tokenizer)
    model = make_model(options, tokenizer, data)
    mixture = make_mixture(options, tokenizer, model, data)
    if options.dry_run:
        if accelerator.is_main_process:
            write_facts(describe(options, data.loaded, mixture, prepare_for_training(model, options)), sys.stdout)
        return out / "final"
    for each in data.loaded:
        run_log.log(str(each))
    if data.fitted is None and model.ensemble is not None:
        settings = model.ensemble.settings
        known = [metric for metric, scale in zip(settings.metrics, settings.scales, strict=True) if scale is not None]
        scored = options.schedule.steps > 0 or bool(options.data.write_bundle)
        fit_ensemble(model, mixture.sources, data.held_out, mixture, run_log.log, scored)
        set_unread(model, known, trained=options.schedule.steps > 0)
        if options.ensemble.fallbacks:
            fit_fallbacks(model, options.ensemble.fallbacks, mixture.sources, data.fallback_only, mixture, run_log.log)
    if options.data.write_bundle:
        if accelerator.is_main_process:
            mixed = [each for each in data.loaded if not each.fallback_only]
            write_bundle(options.data.write_bundle, options, tokenizer, mixed, data.metrics, model)
        return Path(options.data.write_bundle)
    prepared = prepare_for_training(model, options)
    every, trained = count_parameters(prepared)
    run_log.log(
        f"{every / 1e6:.2f}M parameters, {trained / 1e6:.2f}M trained, on {accelerator.num_processes} x {accelerator.device}, "
        f"precision={options.runtime.mixed_precision!r}"
    )
    with contextlib.closing(run_log):
        run = Run(options, accelerator, run_log, tokenizer, prepared, mixture, data.held_out)
        final = run.go()
        calibrate_final(final, data.loaded, options, run_log.log, run.encode)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return final


def read_data(options: TrainOptions, tokenizer: RLMTokenizer) -> RunData:
    """Returns the sources of a run, from tables or from a bundle.

    Raises:
        TrainError: No data, or an entry with unknown keys.
        DataError: Data that cannot be learned from.
    """
    if options.data.bundle:
        return RunData(*read_bundle(options.data.bundle, options, tokenizer))
    loaded, weights = load_sources(options, tokenizer)
    return RunData(loaded, weights, registry(options, loaded))


def make_model(options: TrainOptions, tokenizer: RLMTokenizer, data: RunData) -> RLMForConditionalGeneration:
    """Returns the model to train, with the head and the feature ensemble that the options ask for.

    Raises:
        TrainError: Options that do not fit the checkpoint, the data or the bundle.
    """
    refitted = {metric for source in data.training for metric in source.metrics}
    model = build_model(options, tokenizer, data.metrics, refitted)
    if options.data.bundle and (data.fitted is None) != (model.ensemble is None):
        raise TrainError(
            f"{options.data.bundle} has {'no' if data.fitted is None else 'a'} feature ensemble, and this run has "
            f"{'a' if data.fitted is None else 'none'}; make the bundle with the same init and ensemble."
        )
    if not options.schedule.steps and model.ensemble is None:
        raise TrainError("steps: 0 fits the feature ensemble alone, and there is none; set ensemble, or some steps.")
    if data.fitted is not None:
        data.fitted.give(model)
    check_streams(model, options, data.training)
    check_masked_tokens(model, options)
    choose_head(model, options, data.training, data.held_out)
    return model


def make_mixture(
    options: TrainOptions, tokenizer: RLMTokenizer, model: RLMForConditionalGeneration, data: RunData
) -> Mixture:
    """Returns the mixture of the sources, which makes batches: the same in all processes, or with streams each its own."""
    state = PartialState()
    streamed = any(isinstance(source, StreamSource) for source in data.training)
    own = {"process": state.process_index, "processes": state.num_processes, "workers": options.runtime.workers}
    return Mixture(
        data.training,
        data.weights,
        tokenizer,
        options.data.max_tokens,
        options.data.batch_tokens // (state.num_processes if streamed else 1),
        options.data.max_objectives,
        options.seed,
        draws=options.runtime.feature_draws if options.runtime.feature_cache else None,
        templates=model.config.templates,
        with_targets=model.regression_head is not None,
        restore=options.losses.masked_tokens > 0,
        **(own if streamed else {}),
    )


class Run:
    """A training run from its model and its data to its last checkpoint.

    Args:
        options: The configuration.
        accelerator: Of accelerate.
        run_log: Where progress goes.
        tokenizer: Saved beside the model.
        model: The model, prepared for training.
        mixture: Makes batches of the training rows.
        held_out: Validation rows of each source.
    """

    def __init__(
        self,
        options: TrainOptions,
        accelerator: Accelerator,
        run_log: RunLog,
        tokenizer: RLMTokenizer,
        model: torch.nn.Module,
        mixture: Mixture,
        held_out: list[Source],
    ):
        self.options, self.accelerator, self.log, self.tokenizer = options, accelerator, run_log, tokenizer
        self.mixture, self.out = mixture, Path(options.out)
        self.began: float | None = None
        staging = options.checkpointing.staging
        self.copies = BackgroundCopies(staging) if staging else None
        if accelerator.distributed_type == DistributedType.FSDP:
            self._prepare_sharding(model)
        self.cache: FeatureCache | None = None
        self.encode: RowEncoder | None = None  # of the final model, in the main process
        self.validation = Validation(held_out, mixture, options, self._attach)
        if options.evaluation.patience and not self.validation:
            raise TrainError(
                "patience needs validation rows, and the split left none; set patience: 0 or give more groups."
            )
        self.objective = Objective(options, tokenizer.codec, accelerator.device)
        if options.runtime.feature_cache:
            self.cache = self._filled_cache(base_of(model))
        if options.runtime.compile:
            # Not the whole model: the loss and the feature ensemble would compile anew for every shape, and gain nothing.
            base_of(model).encoder.compile(dynamic=True)
        self.model, *self.optimizers = accelerator.prepare(model, *build_optimizers(model, options))
        self.average = WeightAverage(self.model, options.optimizer.ema) if options.optimizer.ema else None
        if self.average:
            accelerator.register_for_checkpointing(self.average)
        if options.logging.trackers:
            accelerator.init_trackers("code-rlm", {k: str(v) for k, v in full_names(asdict(options)).items()})
        # Processes draw their own dropout, whatever their initial weights were drawn from.
        set_seed(options.seed + accelerator.process_index)

    def _prepare_sharding(self, model: torch.nn.Module) -> None:
        """Sets what FSDP wraps, and refuses what needs whole weights.

        Raises:
            TrainError: An option that needs whole weights.
        """
        # Not by the library's own lists: an embedding inside an embedding module would be wrapped twice, and a decoder's layer
        # projects memory outside its own forward pass, where its weights would not be there.
        encoder = base_of(model).encoder
        layers = {type(m).__name__ for m in encoder.modules() if isinstance(m, GradientCheckpointingLayer)}
        self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(layers)
        options = self.options
        refused = {
            f"ema: {options.optimizer.ema}": options.optimizer.ema,
            f"masked_token_loss: {options.losses.masked_tokens}": options.losses.masked_tokens,
            f"optimizer: {options.optimizer.name}": options.optimizer.name not in ("adamw", "adafactor"),
            f"score: {options.evaluation.score}": options.evaluation.score != "nll",
        }
        for words, is_set in refused.items():
            if is_set:
                raise TrainError(f"{words} needs whole weights on every process and does not go with FSDP.")

    @property
    def plain(self) -> torch.nn.Module:
        """The model without what processes wrap around it; adapters stay."""
        return self.accelerator.unwrap_model(self.model)

    # ------------------------------------------------------------------------------------------------ the loop

    def go(self) -> Path:
        """Trains to the end, from the last checkpoint on where there is one; returns the folder of the final checkpoint."""
        options = self.options
        progress = self._progress_so_far()
        self._place_readers(progress)
        batches = self.mixture.batches(progress.position, options.runtime.workers)
        window = Window(list(progress.losses))
        while progress.step < options.schedule.steps and not progress.stopped:
            # Under a time limit the learning rate falls with the clock where that is ahead of the steps.
            at = max(progress.step, self._clock(progress) * options.schedule.steps)
            set_learning_rate(self.optimizers, options.optimizer.learning_rate * schedule(options, at))
            step_batches = [next(batches) for _ in range(options.schedule.accumulate)]
            window.losses.append(self._step(step_batches, window, progress))
            progress.step += 1
            if not math.isfinite(window.losses[-1]):
                raise TrainError(
                    f"The loss is {window.losses[-1]} at step {progress.step}; lower learning_rate. Checkpoints up to here are "
                    "whole."
                )
            window = self._after_step(progress, window, batches)
        if not progress.step and not checkpoints(self.out):  # there was no step to make
            self._save(self.out / "step-0", progress)
        for line in batches.left_out():
            self.log.log(line)
        del batches  # and with it the processes that make them
        return self._finish(progress)

    def _after_step(self, progress: Progress, window: Window, batches: BatchStream) -> Window:
        """Logs, evaluates and saves where it is due; returns the window of the next log line."""
        options = self.options
        self.log.progress(progress.step)
        last = progress.step == options.schedule.steps or self._clock(progress) >= 1
        if progress.step % options.logging.every == 0 or last:
            rate = self.optimizers[0].param_groups[0]["lr"]
            entry = {"step": progress.step, "lr": rate, **window.summary(), "truncated": self.mixture.truncated}
            self.log.write(entry)
            window = Window()
        if self.validation and (progress.step % options.evaluation.every == 0 or last):
            self._evaluate(progress)
        progress.stopped |= last
        if progress.step % options.checkpointing.every == 0 or progress.stopped:
            progress.position, progress.losses = batches.position, window.losses
            self._note_readers(progress, batches)
            self._save(self.out / f"step-{progress.step}", progress)
        return window

    def _place_readers(self, progress: Progress) -> None:
        """Lets the readers of streamed sources go on where they stood.

        Raises:
            TrainError: There were more or fewer of them.
        """
        if not self.mixture.streams:
            return
        if progress.readers not in (0, self.mixture.lanes):
            raise TrainError(
                f"{self.out} was made with {progress.readers} readers of streamed sources (processes times workers), and now "
                f"there are {self.mixture.lanes}. Resume with the same runtime.workers and the same number of processes."
            )
        self.mixture.set_stream_states(progress.streams)
        if progress.positions:
            progress.position = progress.positions[self.accelerator.process_index]

    def _note_readers(self, progress: Progress, batches: BatchStream) -> None:
        """Collects where the readers of all processes stand; every process calls it."""
        if not self.mixture.streams:
            return
        progress.readers = self.mixture.lanes
        progress.streams = {}
        progress.positions = []
        for position, states in gather_object([(batches.position, batches.stream_states)]):
            progress.positions.append(position)
            progress.streams.update(states)

    def _clock(self, progress: Progress) -> float:
        """Returns the share of its minutes that the run has used."""
        return progress.seconds / (60 * self.options.schedule.minutes) if self.options.schedule.minutes else 0.0

    def _step(self, batches: list[dict[str, torch.Tensor]], window: Window, progress: Progress) -> float:
        """Makes one optimiser step over batches, of which this process takes its share; returns the mean loss per label."""
        self.model.train()
        accelerator, labels = self.accelerator, sum(map(count_labels, batches))
        hidden = sum(count_labels(batch, "hidden") for batch in batches)
        processes = accelerator.num_processes
        if self.mixture.streams and processes > 1:  # the batches of the others are not known here
            counts = accelerator.reduce(torch.tensor([labels, hidden], device=accelerator.device), "sum")
            labels, hidden = counts.tolist()
        total = torch.zeros(2, device=accelerator.device)
        for number, whole in enumerate(batches, start=1):
            window.add(whole, processes if self.mixture.streams else 1)
            own = whole if self.mixture.streams else share(whole, accelerator.process_index, processes)
            batch = self._attach(own)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            if "input_ids" in batch:
                choose_attention(base_of(self.plain), batch["input_ids"])
            more = number < len(batches)
            with accelerator.no_sync(self.model) if more else contextlib.nullcontext():
                loss, parts = self.objective(self.model, batch, labels, hidden)
                # Gradients are averaged over processes; the shares of a loss are to be added up.
                accelerator.backward(loss * processes)
            total += parts
        accelerator.clip_grad_norm_(self.model.parameters(), self.options.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average:
            self.average.update()
        # All follow the clock of the main process, so that they stop at the same step.
        if self.began is None:  # the first step is not counted: it compiles, and waits for the first batches
            self.began = time.perf_counter() - progress.seconds
        seconds = (time.perf_counter() - self.began) * accelerator.is_main_process
        total = torch.cat([total, total.new_tensor([seconds])])
        numbers, restored, progress.seconds = accelerator.reduce(total, "sum").tolist()
        if self.options.losses.masked_tokens:
            window.restored.append(restored)
        return numbers

    def _attach(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(batch) if self.cache is None else self.cache.attach(batch)

    def _filled_cache(self, model: RLMForConditionalGeneration) -> FeatureCache:
        """The encoder outputs of every input that the run can ask for; processes share the work."""
        accelerator, cache = self.accelerator, FeatureCache(self.options.runtime.feature_cache, model)
        cache.refresh()
        lacking = cache.missing([*possible_inputs(self.mixture), *self.validation.inputs()])
        accelerator.wait_for_everyone()  # all have looked at the same parts before one of them writes another
        self.log.log(f"{len(cache)} encoder outputs in {cache.folder}, {len(lacking)} to compute")
        model.eval().to(accelerator.device)
        mine = sorted(lacking, key=len)[accelerator.process_index :: accelerator.num_processes]
        cache.fill(model, mine, self.tokenizer.pad_token_id, self.options.data.batch_tokens, accelerator.device)
        accelerator.wait_for_everyone()
        cache.refresh()
        return cache

    # ------------------------------------------------------------------------------------------------ scores

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _scores(self) -> Scores:
        with self._averaged():
            return self.validation(self.accelerator, self.model, base_of(self.plain))

    def _evaluate(self, progress: Progress) -> None:
        """Scores the model, keeps it as `best/` if none was better, and decides when to stop."""
        scores = self._scores()
        beside = {} if progress.zero_shot is None else {"zero_shot": round(progress.zero_shot, 4)}
        self.log.write({"step": progress.step, **scores.as_dict(), "score": round(scores.total, 4), **beside})
        progress.latest = scores.total
        if progress.best is None or scores.total < progress.best[0]:
            progress.best, progress.waited = (scores.total, progress.step), 0
            self._save(self.out / "best")
        else:
            progress.waited += 1
            progress.stopped = 0 < self.options.evaluation.patience <= progress.waited

    def _log_result(self, progress: Progress) -> None:
        """Logs the best score, where it is, and whether training helped."""
        if progress.best is None:
            return
        best, step = progress.best
        loss = "nll" if base_of(self.plain).regression_head is None else "squared error"
        name = {"nll": loss, "spearman": "minus Spearman"}[self.options.evaluation.score]
        self.log.log(f"best {name} on the validation rows: {best:.4g}, at step {step} of {progress.step}")
        used = best if self.options.evaluation.patience else progress.latest
        if best < used:
            self.log.log(
                f"final/ is of the last step, with {used:.4g}; best/ is better, and with patience: N it becomes final/"
            )
        if progress.zero_shot is not None:
            self.log.log(f"before training: {progress.zero_shot:.4g}")
            if used >= progress.zero_shot:
                self.log.log(
                    "WARNING: on the validation rows the model is no better than before training. Lower learning_rate or "
                    "steps, give more rows, or train less of it (lora, freeze_encoder)."
                )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def _progress_so_far(self) -> Progress:
        found = checkpoints(self.out)
        if found:
            self.accelerator.load_state(str(found[-1] / "state"))
            progress = Progress.read(found[-1])
            self.log.resume_after(progress.step)
            if progress.step < self.options.schedule.steps and not progress.stopped:
                self.log.log(f"resuming from step {progress.step}")
            return progress
        self.log.resume_after(-1)
        progress = Progress()
        if self.options.model.init and self.options.schedule.steps and self.validation:
            scores = self._scores()
            progress.zero_shot = scores.total
            self.log.write({"step": 0, **scores.as_dict(), "score": round(scores.total, 4)})
        return progress

    def _save(self, folder: Path, progress: Progress | None = None) -> None:
        """Writes the model to use, and with progress all that the run needs to go on."""
        accelerator = self.accelerator

        def write(partial: Path) -> None:
            with self._averaged():
                sharded = accelerator.distributed_type == DistributedType.FSDP
                state = accelerator.get_state_dict(self.model) if sharded else None
                if accelerator.is_main_process:
                    save_model(self.plain, self.tokenizer, partial, self.options, state)
                accelerator.wait_for_everyone()
            if progress is not None:
                accelerator.save_state(str(partial / "state"), safe_serialization=True)
                if accelerator.is_main_process:
                    progress.write(partial)

        def after() -> None:
            if progress is not None and accelerator.is_main_process:
                drop_old(self.out, self.options.checkpointing.keep)

        if self.copies is not None and progress is not None:
            self.copies.save(folder, write, accelerator, after)
        else:
            save_whole(folder, write, accelerator)
            after()

    def _finish(self, progress: Progress) -> Path:
        """Makes `final/` of the best or of the last checkpoint, and of LoRA `adapter/` as well."""
        final = self.out / "final"
        if self.copies is not None:
            self.copies.wait()
        self.accelerator.wait_for_everyone()
        chosen = self.out / "best" if self.options.evaluation.patience else checkpoints(self.out)[-1]
        if self.accelerator.is_main_process:
            model, processor = self._trained(chosen)
            to_own_device(model)
            self.encode = RowEncoder(model, processor)
            # Without a step the decoder has never seen a new metric: a sample of the rows shows it.
            screened = not self.options.schedule.steps
            fit_pooling(model, self.validation.sources, self.mixture, self.log.log, self.encode, screened)
            if is_adapted(self.plain):

                def write(folder: Path) -> None:
                    leave = shutil.ignore_patterns("state", "progress.json", "config.json")
                    shutil.copytree(chosen, folder, ignore=leave, dirs_exist_ok=True)
                    model.config.save_pretrained(folder)
                    write_adapter_config(folder, model.config)

                save_whole(self.out / "adapter", write)
            save_whole(final, lambda folder: save_model(model, processor.tokenizer, folder, self.options))
            self._log_result(progress)
        self.accelerator.wait_for_everyone()
        return final

    def _trained(self, checkpoint: Path) -> tuple[RLMForConditionalGeneration, RLMProcessor]:
        """Returns the model of a checkpoint, adapters merged; without a step that is the one in memory."""
        is_sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if self.options.schedule.steps or is_adapted(self.plain) or is_sharded:
            return load(checkpoint)
        return self.plain.eval(), RLMProcessor(self.tokenizer, self.plain.config)


def choose_attention(model: RLMForConditionalGeneration, input_ids: torch.Tensor) -> None:
    """On a CPU, plain attention for short inputs: its backward pass is up to twice as fast there as the fused one."""
    if input_ids.device.type != "cpu" or not model.encoder._supports_sdpa:  # T5Gemma has the plain one only
        return
    wanted = "eager" if input_ids.shape[1] <= 256 else "sdpa"
    implementation = model.encoder.config._attn_implementation
    is_local = implementation == LOCAL_ATTENTION and is_long(model.encoder.config)
    if implementation != wanted and not is_local:
        model.encoder.set_attn_implementation(wanted)


def run_command(options: TrainOptions) -> int:
    """Runs `code-rlm train` and returns its exit status."""
    logging.disable_progress_bar()
    final = train(options)
    if not options.dry_run and PartialState().is_main_process:
        print(final)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit status."""
    return cli.main(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
