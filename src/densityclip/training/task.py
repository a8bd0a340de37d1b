"""The LightningModule: one step of weighted contrastive adaptation, and the validation that selects."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import polars as pl
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

from densityclip.density import CATEGORIES
from densityclip.model.adapt import add_lora, choose_trained, interpolated, merge_lora, parameter_groups
from densityclip.model.biomedclip import Foundation
from densityclip.model.classifier import (
    DensityClassifier,
    check_captions,
    class_embeddings,
    normalise,
    pad_token,
    tokenise,
)
from densityclip.model.prompts import Prompts
from densityclip.probability.calibrate import prior_shift
from densityclip.training.batches import Batch, ImageStore, TrainingBatches, seed_for
from densityclip.training.class_balance import ClassBalance, class_balance
from densityclip.training.config import TrainConfig
from densityclip.training.losses import batch_loss, class_prompt, infonce, multi_positive, ordinal
from densityclip.training.schedule import rate_share
from densityclip.training.scoring import macro_auc_by_modality, scorer_of
from densityclip.training.weighting import make_modality_weights

if TYPE_CHECKING:
    from peft import PeftModel

SELECTED_BY = "validation/worst_macro_auc"

HISTORY_SCHEMA: dict[str, pl.DataType] = {"step": pl.Int64(), "name": pl.String(), "value": pl.Float64()}

# Of learned modality weights: few numbers that start at zero and have to move within one training.
_WEIGHT_RATE = 0.01


# A message names so many images; more of them stand in a file.
_NAMED = 8


class NotFinite(Exception):
    """A training that cannot go on, because a number is no number any more.

    Attributes:
        what: The loss, or the weights.
        step: Optimiser steps done before.
        image_ids: Of the batch of that step, all of them; none where it is not a batch's.
    """

    def __init__(self, what: str, step: int, image_ids: Sequence[str] = ()) -> None:
        self.what, self.step, self.image_ids = what, step, tuple(image_ids)
        super().__init__(what, step)

    def said(self, file: Path) -> str:
        """The fact in a sentence; `file` is where a long batch is listed."""
        if not self.image_ids:
            return f"the {self.what} are not finite after {self.step} steps"
        named = ", ".join(self.image_ids) if len(self.image_ids) <= _NAMED else f"listed in {file}"
        return (
            f"the {self.what} is not finite at step {self.step}; the {len(self.image_ids)} images of its batch: {named}"
        )


class ContrastiveTask(lightning.LightningModule):
    """Adapts a CLIP model to density.

    Lightning drives the steps; what a step sees is a function of its number alone (`TrainingBatches.at`), and dropout
    is seeded from it, so a run that was killed goes on exactly as it would have.

    Attributes:
        balance: What is done about the categories' frequencies.
        prior_shift: What puts the frequencies of the training images back into its answers.
        history: Rows of `training.csv`, kept in the checkpoint so that a resumed run has them once.
        average: Moving average of the trained weights by name, where one is kept.
    """

    caption_tokens: Tensor
    class_weights: Tensor
    adjustment: Tensor
    frozen_texts: Tensor

    def __init__(
        self,
        foundation: Foundation,
        config: TrainConfig,
        prompts: Prompts,
        batches: TrainingBatches,
        validation: ImageStore,
    ) -> None:
        super().__init__()
        self.clip = foundation.clip
        self.tokenizer = foundation.tokenizer
        self.preprocess = foundation.config["preprocess_cfg"]
        self.config, self.prompts, self.batches, self.validation = config, prompts, batches, validation
        # In a list, or the model would be registered twice.
        self._adapted: list[PeftModel] = []
        if config.adaptation == "lora":
            self._adapted = [
                add_lora(self.clip, rank=config.lora_rank, text_tower=config.trains_text, seed=seed_for(config.seed, 5))
            ]
        self._choose_trained("full" if config.adaptation == "lp-ft" else config.adaptation)
        self._register_captions()
        self.balance = balance_of(batches, config)
        counts = np.bincount(batches.store.labels, minlength=len(CATEGORIES))
        self.prior_shift = prior_shift(counts.tolist(), self.balance.prior)
        self.register_buffer("class_weights", torch.tensor(self.balance.weights).float(), False)
        self.register_buffer("adjustment", torch.tensor(self.balance.adjustment).float(), False)
        drawn = batches.sampler.shares
        shares = np.bincount(batches.store.modalities, drawn, minlength=len(config.modalities))
        self.modality_weights = make_modality_weights(
            config.modality_weights, config.modalities, shares.tolist(), config.fixed_modality_weights
        )
        self.history: list[tuple[int, str, float]] = []
        self.average: dict[str, Tensor] = self._copies() if config.ema_decay else {}
        self._beside: dict[str, Tensor] = {}

    def _choose_trained(self, adaptation: str) -> None:
        self._trained_as = adaptation
        choose_trained(self.clip, adaptation, text_tower=self.config.trains_text)

    def _register_captions(self) -> None:
        check_captions(self.tokenizer, self.prompts, self.config.modalities)
        tokens = tokenise(self.tokenizer, self.batches.captions.texts, pad_token(self.clip))
        self.register_buffer("caption_tokens", tokens, False)
        texts = torch.empty(0)
        if not self.config.trains_text:
            with torch.no_grad():
                texts = self.clip.encode_text(tokens, normalize=True)
        self.register_buffer("frozen_texts", texts, False)

    def _trained(self) -> dict[str, Tensor]:
        """The weights that are trained at some time, by name."""
        return {name: value for name, value in self.clip.named_parameters() if self._ever_trained(name, value)}

    def _ever_trained(self, name: str, value: Tensor) -> bool:
        return value.requires_grad or self.config.adaptation == "lp-ft"

    def _copies(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._trained().items()}

    def record(self, values: Mapping[str, float]) -> None:
        """Add points to the history and the loggers, at the number of steps done."""
        self.history += [(self.global_step, name, float(value)) for name, value in values.items()]
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.global_step)

    def on_fit_start(self) -> None:
        """Keep the images on the device where they fit, and the average of the weights beside them."""
        self.average = {name: value.to(self.device) for name, value in self.average.items()}
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            # Half of what is free stays for activations.
            if self.batches.store.nbytes < free / 2:
                self.batches.store.move_to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step; what Lightning hands in is ignored, the batch follows from the step's number."""
        step = self.global_step
        if self.config.adaptation == "lp-ft":
            phase = "linear-probe" if step < self.config.probe_steps else "full"
            if phase != self._trained_as:
                self._choose_trained(phase)
        seen = self.batches.at(step, rank=self.global_rank, world=self.trainer.world_size)
        losses = self.losses(seen, step)
        labels, modalities = seen.labels.to(self.device), seen.modalities.to(self.device)
        weights = self.class_weights[labels] * self.modality_weights.current()[modalities]
        loss = batch_loss(losses, weights) + self.modality_weights.penalty(modalities)
        if not bool(torch.isfinite(loss)):
            ids = self.batches.store.items["image_id"][seen.indices.tolist()].to_list()
            raise NotFinite("loss", step, ids)
        if step % 10 == 0:
            self._record_step(loss, losses.detach(), modalities)
        # After the record, which so has the weights of this step and not of the next.
        self.modality_weights.update(losses.detach(), labels, modalities)
        return loss

    def losses(self, seen: Batch, step: int) -> Tensor:
        """Unweighted loss of each image of the whole batch, the same in every process."""
        # Every process draws the same dropout for the captions, or their losses and so their weights would drift apart.
        torch.manual_seed(seed_for(self.config.seed, 4, step))
        labels = seen.labels.to(self.device)
        prompted = self.config.loss == "class-prompt"
        texts = self._classes(seen.wordings) if prompted else self._captions(seen.captions)
        torch.manual_seed(seed_for(self.config.seed, 4, step, 1 + self.global_rank))
        images = self._images(seen.pixels.to(self.device))
        scale = self.clip.logit_scale.exp().float()
        functions = {"infonce": infonce, "multi-positive": multi_positive, "class-prompt": class_prompt}
        # Logits reach 100, where bfloat16 knows steps of 0.5 only.
        with torch.autocast(self.device.type, enabled=False):
            if self.config.loss == "ordinal":
                return ordinal(images, texts, labels, scale, self.adjustment, neighbour=self.config.neighbour)
            return functions[self.config.loss](images, texts, labels, scale, self.adjustment)

    def _images(self, pixels: Tensor) -> Tensor:
        """Features of the whole batch, `[batch, d]`; the images of other processes come from them, with gradients."""

        def encode(some: Tensor) -> Tensor:
            features: Tensor = self.clip.encode_image(normalise(some, self.preprocess), normalize=True)
            return features

        chunks = pixels.split(self.config.chunk_size or len(pixels))
        if len(chunks) == 1:
            features = encode(pixels)
        else:
            # Each chunk's activations are dropped and computed again when its gradient comes, with the same dropout:
            # memory for one chunk, the gradient of the whole batch (GradCache, arXiv:2101.06983).
            features = torch.cat([recomputed(encode, chunk, use_reentrant=False) for chunk in chunks])
        if self._trainer is not None and self._trainer.world_size > 1:
            everyones = self.all_gather(features, sync_grads=True)
            assert isinstance(everyones, Tensor)
            features = everyones.flatten(0, 1)
        return features.float()

    def _captions(self, numbers: Tensor) -> Tensor:
        """`[n, d]` features of captions; a batch has few distinct ones, so each is encoded once and gathered."""
        numbers = numbers.to(self.device)
        if not self.config.trains_text:
            return self.frozen_texts[numbers]
        distinct, place = numbers.unique(return_inverse=True)
        features: Tensor = self.clip.encode_text(self.caption_tokens[distinct], normalize=True)
        return features.float()[place]

    def _classes(self, wordings: Tensor) -> Tensor:
        """`[batch, 4, d]` the categories' prompts in each image's wording, joined as prediction joins them."""
        distinct, place = wordings.unique(return_inverse=True)
        choices = self.batches.captions.choices
        numbers = [torch.from_numpy(choices[word, label]) for word in distinct.tolist() for label in range(4)]
        features = self._captions(torch.cat(numbers))
        means = [part.mean(dim=0) for part in features.split([len(some) for some in numbers])]
        return functional.normalize(torch.stack(means), dim=-1).unflatten(0, (-1, 4))[place.to(features.device)]

    def _record_step(self, loss: Tensor, losses: Tensor, modalities: Tensor) -> None:
        values = {
            "train/loss": float(loss.detach()),
            "train/logit_scale": float(self.clip.logit_scale.detach().exp()),
            "train/learning_rate": max(float(group["lr"]) for group in self.trainer.optimizers[0].param_groups[:-1]),
        }
        weights, lag = self.modality_weights.current().tolist(), self.modality_weights.lag()
        for index, name in enumerate(self.config.modalities):
            if bool((modalities == index).any()):
                values[f"train/loss/{name}"] = float(losses[modalities == index].mean())
            if self.config.modality_weights != "none":
                values[f"weight/{name}"] = weights[index]
            if lag is not None:
                values[f"signal/{name}"] = float(lag[index])
        self.record(values)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        """Keep the temperature within its bound, and the average of the weights."""
        self.clip.logit_scale.clamp_(0.0, math.log(self.config.max_logit_scale))
        # The average begins as one of the steps so far, as the start would else weigh too long.
        decay = min(self.config.ema_decay, self.global_step / (self.global_step + 10))
        trained = self._trained() if self.average else {}
        for name, mean in self.average.items():
            mean.lerp_(trained[name], 1 - decay)

    def classifier(self) -> DensityClassifier:
        """The model as it stands, its prompts embedded."""
        embeddings = class_embeddings(self.clip, self.tokenizer, self.prompts, self.config.modalities)
        scale = float(self.clip.logit_scale.detach().exp())
        return DensityClassifier(self.clip.visual, embeddings, scale, self.preprocess)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Macro AUC of each trained modality; the worst of them selects the checkpoint."""
        self._use_average()
        self.validate_now()
        self._stop_using_average()

    def validate_now(self) -> dict[str, float]:
        """Score the model as it stands on the validation part, its frequencies put back as in its answers; record it.

        Raises:
            NotFinite: The weights are not.
        """
        if not all(bool(torch.isfinite(value).all()) for value in self._trained().values()):
            raise NotFinite("weights", self.global_step)
        scores = macro_auc_by_modality(
            scorer_of(self.classifier()), self.validation, self.config.modalities, self.prior_shift
        )
        values = {f"validation/macro_auc/{name}": score for name, score in scores.items()}
        self.record(values | {SELECTED_BY: min(scores.values())})
        return scores

    @torch.no_grad()
    def _use_average(self) -> None:
        self._beside = self._copies() if self.average else {}
        for name, value in self._trained().items():
            value.copy_(self.average.get(name, value))

    @torch.no_grad()
    def _stop_using_average(self) -> None:
        for name, value in self._trained().items():
            value.copy_(self._beside.get(name, value))
        self._beside = {}

    @torch.no_grad()
    def finish(self, start: Foundation | None = None) -> None:
        """Make the model that is delivered: average, low-rank matrices merged, moved towards the start.

        Args:
            start: The foundation model, where `interpolation` is below 1.
        """
        self._use_average()
        if self._adapted:
            self.clip = merge_lora(self._adapted[0])
        if start is not None:
            names = [name for name, _ in start.clip.named_parameters()]
            state = interpolated(start.clip.state_dict(), self.clip.state_dict(), self.config.interpolation, names)
            self.clip.load_state_dict(state)
        self.clip.requires_grad_(True)
        self.clip.eval()

    def configure_optimizers(self) -> Any:
        """AdamW, decay on matrices only; linear warm-up, then a cosine to zero."""
        config = self.config
        groups = parameter_groups(
            self.clip, rate=config.rate, weight_decay=config.weight_decay, layer_decay=config.layer_decay
        )
        learned = list(self.modality_weights.parameters())
        groups.append({"params": learned, "lr": _WEIGHT_RATE, "weight_decay": 0.0})
        # Under float16 the fused optimiser takes out the loss's scale by itself, after the clipping.
        optimizer = torch.optim.AdamW(groups, fused=config.precision != "16-mixed")

        def share(step: int) -> float:
            return rate_share(step, config)

        def share_of_learned(step: int) -> float:
            # The probe's own rate is not that of the modality weights.
            return min(1.0, share(step))

        shares: list[Callable[[int], float]] = [*[share] * (len(groups) - 1), share_of_learned]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shares)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does; it refuses a fused optimiser under bfloat16, where no loss is scaled."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val:
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history and the average with the weights."""
        checkpoint["history"], checkpoint["average"] = self.history, self.average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history and the average of the run that was killed."""
        self.history = [tuple(row) for row in checkpoint["history"]]
        self.average = checkpoint["average"]


def balance_of(batches: TrainingBatches, config: TrainConfig) -> ClassBalance:
    """What a training does about the frequencies of its images' categories."""
    labels = batches.store.labels
    untrained = config.adaptation == "zero-shot"  # no frequency has reached it
    return class_balance(
        np.bincount(labels, minlength=4).tolist(),
        np.bincount(labels, batches.sampler.shares, minlength=4).tolist(),
        "none" if untrained else config.class_weights,
        loss="multi-positive" if untrained else config.loss,
        beta=config.effective_number_beta,
    )
