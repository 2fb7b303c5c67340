"""Trains a regression language model with accelerate: from scratch, around a pretrained encoder, or from a checkpoint.

    python train.py --config configs/small.yaml --data_root DATA
    accelerate launch train.py --config configs/small.yaml        # several processes, the same file, the same batches
    code-rlm train --config configs/small.yaml --steps 100 --out runs/try
    code-rlm train --config mine.yaml --dry_run                   # what it would do

One dataclass, `training.options.TrainOptions`, fills the help text, the YAML file and the checks; flags win over the file; an
unknown key is an error; the resolved options are saved beside the checkpoint. A run that was killed goes on where its last
checkpoint stands when the same command is given again. Checkpoints appear whole or not at all.

A run's folder holds `step-N/` (the last `keep` checkpoints), `best/` (the best on the validation rows), `final/` (what to use;
of LoRA the merged model, with the adapter in `adapter/`), `log.jsonl` and `options.yaml`.
"""

import contextlib
import math
import shutil
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from code_rlm.data.mixture import Mixture, share
from code_rlm.errors_rlm import RLMError
from code_rlm.loading import load
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.training.adapters import base_of, is_adapted
from code_rlm.training.checkpoints import Progress, checkpoints, claim_folder, drop_old, save_model, save_whole
from code_rlm.training.experts import fit_experts
from code_rlm.training.features import FeatureCache, possible_inputs
from code_rlm.training.lexical import fit_lexical_path
from code_rlm.training.logs import RunLog, Window, check_trackers
from code_rlm.training.losses import Objective, count_labels
from code_rlm.training.models import (
    build_model,
    check_restoring,
    choose_head,
    count_parameters,
    load_tokenizer,
    prepare_for_training,
)
from code_rlm.training.optimizers import WeightAverage, build_optimizers, schedule, set_learning_rate
from code_rlm.training.options import TrainError, TrainOptions, parse_options
from code_rlm.training.packing import check_target, read_pack, write_pack
from code_rlm.training.plan import describe
from code_rlm.training.sources import load_sources, registry
from code_rlm.training.validation import Scores, Validation


def train(options: TrainOptions) -> Path:
    """Runs training to its end and returns the folder of the final checkpoint; of a dry run the folder it would make, with
    `pack` the file written.

    Raises:
        TrainError: No data, or a run folder that holds a run with other options.
    """
    check_trackers(options.log_with)
    if options.pack and not options.dry_run:
        check_target(options.pack)
    out = Path(options.out)
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.log_with or None,
        project_dir=str(out),
        # They are the same everywhere: every process fits the same path. And no backend sends 16-bit integers.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.is_main_process and not options.dry_run and not options.pack:
        claim_folder(out, options)
    accelerator.wait_for_everyone()
    set_seed(options.seed)
    if accelerator.device.type == "cuda":
        # cuDNN's attention makes a plan for every new shape, 17 ms of an H100's processor each; batches rarely have the same.
        torch.backends.cuda.enable_cudnn_sdp(False)
    log = RunLog(accelerator, out / "log.jsonl", options.steps)
    tokenizer = load_tokenizer(options)
    if options.packed:
        loaded, weights, metrics, fitted = read_pack(options.packed, options, tokenizer)
    else:
        loaded, weights = load_sources(options, tokenizer)
        metrics, fitted = registry(options, loaded), None
    model = build_model(options, tokenizer, metrics)
    if options.packed and (fitted is None) != (model.lexical is None):
        raise TrainError(
            f"{options.packed} has {'no' if fitted is None else 'a'} lexical path, and this run has "
            f"{'a' if fitted is None else 'none'}; pack with the same init and lexical."
        )
    if not options.steps and model.lexical is None:
        raise TrainError("steps: 0 fits the lexical path alone, and there is none; set lexical, or some steps.")
    if fitted is not None:
        fitted.give(model)
    training = [each.train for each in loaded]
    held_out = [each.validation for each in loaded if each.validation]
    check_restoring(model, options)
    choose_head(model, options, training, held_out)
    mixture = Mixture(
        training,
        weights,
        tokenizer,
        options.max_tokens,
        options.batch_tokens,
        options.max_objectives,
        options.seed,
        draws=options.feature_draws if options.feature_cache else None,
        templates=model.config.templates,
        with_targets=model.regression_head is not None,
        restore=options.restore_loss > 0,
    )
    if options.dry_run:
        for line in describe(options, loaded, mixture, model) if accelerator.is_main_process else ():
            print(line)
        return out / "final"
    for each in loaded:
        log.say(str(each))
    if fitted is None and model.lexical is not None:
        fit_lexical_path(model, mixture.sources, held_out, mixture, log.say)
    if options.pack:
        if accelerator.is_main_process:
            write_pack(options.pack, options, tokenizer, loaded, metrics, model)
        return Path(options.pack)
    model = prepare_for_training(model, options)
    every, trained = count_parameters(model)
    log.say(
        f"{every / 1e6:.2f}M parameters, {trained / 1e6:.2f}M trained, on {accelerator.num_processes} x {accelerator.device}, "
        f"precision={options.mixed_precision!r}"
    )
    with contextlib.closing(log):
        return Run(options, accelerator, log, tokenizer, model, mixture, held_out).go()


class Run:
    """A training run from its model and its data to its last checkpoint."""

    def __init__(self, options, accelerator, log, tokenizer, model, mixture, held_out):
        self.options, self.accelerator, self.log, self.tokenizer = options, accelerator, log, tokenizer
        self.mixture, self.out, self.began = mixture, Path(options.out), None
        if accelerator.distributed_type == DistributedType.FSDP:
            self._prepare_sharding(model)
        self.cache = None
        self.validation = Validation(held_out, mixture, options, self._attach)
        if options.patience and not self.validation:
            raise TrainError(
                "patience needs validation rows, and the split left none; set patience: 0 or give more groups."
            )
        self.objective = Objective(options, tokenizer.codec, accelerator.device)
        if options.feature_cache:
            self.cache = self._filled_cache(base_of(model))
        if options.compile:
            # Not the whole model: the loss and the lexical path compile anew for ever other shapes, and gain nothing.
            base_of(model).encoder.compile(dynamic=True)
        self.model, *self.optimizers = accelerator.prepare(model, *build_optimizers(model, options))
        self.average = WeightAverage(self.model, options.ema) if options.ema else None
        if self.average:
            accelerator.register_for_checkpointing(self.average)
        if options.log_with:
            accelerator.init_trackers("code-rlm", {k: str(v) for k, v in vars(options).items()})
        # Processes draw their own dropout, whatever their initial weights were drawn from.
        set_seed(options.seed + accelerator.process_index)

    def _prepare_sharding(self, model: torch.nn.Module) -> None:
        """Tells FSDP what to wrap, and refuses what needs whole weights."""
        # Not by the library's own lists: an embedding inside an embedding module would be wrapped twice, and a decoder's layer
        # projects memory outside its own forward pass, where its weights would not be there.
        encoder = base_of(model).encoder
        layers = {type(m).__name__ for m in encoder.modules() if isinstance(m, GradientCheckpointingLayer)}
        self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(layers)
        asked = {f"{name}: {getattr(self.options, name)}" for name in ("optimizer", "score", "ema", "restore_loss")}
        fine = {"optimizer: adamw", "optimizer: adafactor", "score: nll"}
        for words in sorted(
            asked - fine - {f"{name}: {zero}" for name in ("ema", "restore_loss") for zero in (0.0, 0)}
        ):
            raise TrainError(f"{words} needs whole weights on every process and does not go with FSDP.")

    @property
    def plain(self) -> torch.nn.Module:
        """The model without what processes wrap around it; adapters stay."""
        return self.accelerator.unwrap_model(self.model)

    # ------------------------------------------------------------------------------------------------ the loop

    def go(self) -> Path:
        """Trains to the end, from the last checkpoint on where there is one."""
        options, log = self.options, self.log
        progress = self._progress_so_far()
        batches = self.mixture.batches(progress.position, options.workers)
        window = Window(list(progress.losses))
        while progress.step < options.steps and not progress.stopped:
            at = max(progress.step, self._clock(progress) * options.steps)
            set_learning_rate(self.optimizers, options.learning_rate * schedule(options, at))
            window.losses.append(self._step([next(batches) for _ in range(options.accumulate)], window, progress))
            progress.step += 1
            if not math.isfinite(window.losses[-1]):
                raise TrainError(
                    f"The loss is {window.losses[-1]} at step {progress.step}; lower learning_rate. Checkpoints up to here are "
                    "whole."
                )
            log.progress(progress.step)
            last = progress.step == options.steps or self._clock(progress) >= 1
            if progress.step % options.log_every == 0 or last:
                rate = self.optimizers[0].param_groups[0]["lr"]
                log.write({"step": progress.step, "lr": rate, **window.summary(), "cut": self.mixture.truncated})
                window = Window()
            if self.validation and (progress.step % options.eval_every == 0 or last):
                self._evaluate(progress)
            progress.stopped |= last
            if progress.step % options.save_every == 0 or progress.stopped:
                progress.position, progress.losses = batches.position, window.losses
                self._save(self.out / f"step-{progress.step}", progress)
                if self.accelerator.is_main_process:
                    drop_old(self.out, options.keep)
        if not checkpoints(self.out):  # there was no step to make
            self._save(self.out / "step-0", progress)
        del batches  # and with it the processes that make them
        return self._finish(progress)

    def _clock(self, progress: Progress) -> float:
        """Which share of its minutes the run has used."""
        return progress.seconds / (60 * self.options.minutes) if self.options.minutes else 0.0

    def _step(self, batches: list[dict[str, torch.Tensor]], window: Window, progress: Progress) -> float:
        """One optimiser step over batches, of which this process takes its share; the mean loss per label of all."""
        self.model.train()
        accelerator, labels = self.accelerator, sum(map(count_labels, batches))
        hidden = sum(count_labels(batch, "hidden") for batch in batches)
        total = torch.zeros(2, device=accelerator.device)
        for number, whole in enumerate(batches, start=1):
            window.add(whole)
            batch = self._attach(share(whole, accelerator.process_index, accelerator.num_processes))
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            if "input_ids" in batch:
                choose_attention(base_of(self.plain), batch["input_ids"])
            waits = number < len(batches)
            with accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                loss, parts = self.objective(self.model, batch, labels, hidden)
                # Gradients are averaged over processes; the shares of a loss are to be added up.
                accelerator.backward(loss * accelerator.num_processes)
            total += parts
        accelerator.clip_grad_norm_(self.model.parameters(), self.options.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average:
            self.average.update()
        # All go by the main process's clock, so that they stop at the same step.
        if self.began is None:  # the first step is not counted: it compiles, and waits for the first batches
            self.began = time.perf_counter() - progress.seconds
        seconds = (time.perf_counter() - self.began) * accelerator.is_main_process
        total = torch.cat([total, total.new_tensor([seconds])])
        numbers, restored, progress.seconds = accelerator.reduce(total, "sum").tolist()
        if self.options.restore_loss:
            window.restored.append(restored)
        return numbers

    def _attach(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(batch) if self.cache is None else self.cache.attach(batch)

    def _filled_cache(self, model: RLMForConditionalGeneration) -> FeatureCache:
        """The encoder outputs of every input that the run can ask for; processes share the work."""
        accelerator, cache = self.accelerator, FeatureCache(self.options.feature_cache, model)
        cache.refresh()
        lacking = cache.missing([*possible_inputs(self.mixture), *self.validation.inputs()])
        accelerator.wait_for_everyone()  # all have looked at the same parts before one of them writes another
        self.log.say(f"{len(cache)} encoder outputs in {cache.folder}, {len(lacking)} to compute")
        model.eval().to(accelerator.device)
        mine = sorted(lacking, key=len)[accelerator.process_index :: accelerator.num_processes]
        cache.fill(model, mine, self.tokenizer.pad_token_id, self.options.batch_tokens, accelerator.device)
        accelerator.wait_for_everyone()
        cache.refresh()
        return cache

    # ------------------------------------------------------------------------------------------------ scores

    def _averaged(self):
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _scores(self) -> Scores:
        with self._averaged():
            return self.validation(self.accelerator, self.model, base_of(self.plain))

    def _evaluate(self, progress: Progress) -> None:
        """Scores the model, keeps it as `best/` if none was better, and says when to stop."""
        scores = self._scores()
        beside = {} if progress.zero_shot is None else {"zero_shot": round(progress.zero_shot, 4)}
        self.log.write({"step": progress.step, **scores.as_dict(), "score": round(scores.total, 4), **beside})
        progress.latest = scores.total
        if progress.best is None or scores.total < progress.best[0]:
            progress.best, progress.waited = (scores.total, progress.step), 0
            self._save(self.out / "best")
        else:
            progress.waited += 1
            progress.stopped = 0 < self.options.patience <= progress.waited

    def _tell_how_it_went(self, progress: Progress) -> None:
        """The best score, where it is, and whether training was worth it."""
        if progress.best is None:
            return
        best, step = progress.best
        loss = "nll" if base_of(self.plain).regression_head is None else "squared error"
        name = {"nll": loss, "spearman": "minus Spearman"}[self.options.score]
        self.log.say(f"best {name} on the validation rows: {best:.4g}, at step {step} of {progress.step}")
        used = best if self.options.patience else progress.latest
        if best < used:
            self.log.say(
                f"final/ is of the last step, with {used:.4g}; best/ is better, and with patience: N it becomes final/"
            )
        if progress.zero_shot is not None:
            self.log.say(f"before training: {progress.zero_shot:.4g}")
            if used >= progress.zero_shot:
                self.log.say(
                    "WARNING: on the validation rows the model is no better than before training. Lower learning_rate or "
                    "steps, give more rows, or train less of it (lora, freeze_encoder)."
                )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def _progress_so_far(self) -> Progress:
        found = checkpoints(self.out)
        if found:
            self.accelerator.load_state(str(found[-1] / "state"))
            progress = Progress.read(found[-1])
            self.log.go_on_from(progress.step)
            if progress.step < self.options.steps and not progress.stopped:
                self.log.say(f"going on from step {progress.step}")
            return progress
        self.log.go_on_from(-1)
        progress = Progress()
        if self.options.init and self.validation:
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

        save_whole(folder, write, accelerator)

    def _finish(self, progress: Progress) -> Path:
        """Makes `final/` of the best or of the last checkpoint, and of LoRA `adapter/` as well."""
        final = self.out / "final"
        chosen = self.out / "best" if self.options.patience else checkpoints(self.out)[-1]
        if self.accelerator.is_main_process:
            model, tokenizer = load(chosen)
            fit_experts(model.to(self.accelerator.device), self.validation.sources, self.mixture, self.log.say)
            model.to("cpu")
            if is_adapted(self.plain):

                def write(folder: Path) -> None:
                    leave = shutil.ignore_patterns("state", "progress.json", "config.json")
                    shutil.copytree(chosen, folder, ignore=leave, dirs_exist_ok=True)
                    model.config.save_pretrained(folder)

                save_whole(self.out / "adapter", write)
            save_whole(final, lambda folder: save_model(model, tokenizer, folder, self.options))
            self._tell_how_it_went(progress)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return final


def choose_attention(model: RLMForConditionalGeneration, input_ids: torch.Tensor) -> None:
    """On a CPU, plain attention for short inputs: its backward pass is up to twice as fast there as the fused one."""
    if input_ids.device.type != "cpu" or not model.encoder._supports_sdpa:  # T5Gemma has the plain one only
        return
    wanted = "eager" if input_ids.shape[1] <= 256 else "sdpa"
    if model.encoder.config._attn_implementation != wanted:
        model.encoder.set_attn_implementation(wanted)


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 and one line on unusable options or data."""
    logging.disable_progress_bar()
    try:
        final = train(options := parse_options(argv, __doc__))
    except RLMError as error:
        print(f"code-rlm train: {error}", file=sys.stderr)
        return 2
    if not options.dry_run and PartialState().is_main_process:
        print(final)
    return 0


if __name__ == "__main__":
    sys.exit(main())
