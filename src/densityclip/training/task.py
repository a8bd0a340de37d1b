"""The LightningModule: one step of weighted contrastive adaptation, and the validation that selects."""

import math
from typing import Any

import lightning
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from densityclip.errors import UserError
from densityclip.evaluation.metrics import macro_auc
from densityclip.model.biomedclip import Foundation
from densityclip.model.classifier import DensityClassifier, class_embeddings, normalise, tokenise
from densityclip.model.prompts import Prompts
from densityclip.training.batches import ImageStore, TrainingBatches, seed_for
from densityclip.training.config import TrainConfig
from densityclip.training.losses import batch_loss, multi_positive
from densityclip.training.scoring import mean_probabilities
from densityclip.training.weighting import AdaptiveModalityWeights, class_weights

SELECTED_BY = "validation/worst_macro_auc"

# CLIP's bound on the inverse temperature (arXiv:2103.00020, section 2.5).
_MAX_LOGIT_SCALE = math.log(100.0)

HISTORY_SCHEMA: dict[str, pl.DataType] = {"step": pl.Int64(), "name": pl.String(), "value": pl.Float64()}


class ContrastiveTask(lightning.LightningModule):
    """Adapts both towers of a CLIP model to density.

    Lightning drives the steps; what a step sees is a function of its number alone (`TrainingBatches.at`), and dropout
    is seeded from it, so a run that was killed goes on exactly as it would have.

    Attributes:
        history: Rows of `training.csv`, kept in the checkpoint so that a resumed run has them once.
    """

    caption_tokens: Tensor
    class_weights: Tensor

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
        store = batches.store
        pad_token = self.clip.text.config.pad_token_id
        self.register_buffer("caption_tokens", tokenise(self.tokenizer, batches.captions.texts, pad_token), False)
        counts = np.bincount(store.labels, minlength=4)
        self.register_buffer(
            "class_weights", torch.tensor(class_weights(counts.tolist(), config.class_weights)).float(), False
        )
        shares = np.bincount(store.modalities, minlength=len(config.modalities)) / len(store)
        self.modality_weights = AdaptiveModalityWeights(shares.tolist())
        self.history: list[tuple[int, str, float]] = []
        self._classifier: DensityClassifier | None = None
        self._outputs: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def record(self, name: str, value: float) -> None:
        """Add one point to the history, at the number of steps done."""
        self.history.append((self.global_step, name, float(value)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step; what Lightning hands in is ignored, the batch follows from the step's number."""
        step = self.global_step
        seen = self.batches.at(step)
        torch.manual_seed(seed_for(self.config.seed, 4, step))
        labels, modalities = seen.labels.to(self.device), seen.modalities.to(self.device)
        images = self.clip.encode_image(normalise(seen.pixels.to(self.device), self.preprocess), normalize=True)
        # A batch has few distinct captions: encode each once and gather; the gradient is the same.
        distinct, place = seen.captions.unique(return_inverse=True)
        texts = self.clip.encode_text(self.caption_tokens[distinct], normalize=True)[place]
        losses = multi_positive(images, texts, labels, self.clip.logit_scale.exp())
        weights = self.class_weights[labels]
        if self.config.modality_weights == "adaptive":
            weights = weights * self.modality_weights.current()[modalities]
            self.modality_weights.update(losses.detach(), labels, modalities)
        loss = batch_loss(losses, weights)
        if not bool(torch.isfinite(loss)):
            ids = self.batches.store.items["image_id"][seen.indices.tolist()].to_list()
            raise UserError(
                f"the loss is not finite at step {step}; its batch begins with the images {', '.join(ids[:3])}",
                "lower learning_rate, or look at these images; the last good checkpoint is kept",
            )
        if step % 10 == 0:
            self._record_step(loss, losses.detach(), modalities)
        return loss

    def _record_step(self, loss: Tensor, losses: Tensor, modalities: Tensor) -> None:
        self.record("train/loss", float(loss.detach()))
        self.record("train/logit_scale", float(self.clip.logit_scale.detach().exp()))
        self.record("train/learning_rate", float(self.trainer.optimizers[0].param_groups[0]["lr"]))
        weights = self.modality_weights.current().tolist()
        for index, name in enumerate(self.config.modalities):
            if bool((modalities == index).any()):
                self.record(f"train/loss/{name}", float(losses[modalities == index].mean()))
            if self.config.modality_weights == "adaptive":
                self.record(f"weight/{name}", weights[index])

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep the temperature within its bound."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0.0, _MAX_LOGIT_SCALE)

    def on_validation_start(self) -> None:
        """Embed the prompts as they stand now."""
        embeddings = class_embeddings(self.clip, self.tokenizer, self.prompts, self.config.modalities)
        self._classifier = DensityClassifier(
            self.clip.visual, embeddings, float(self.clip.logit_scale.exp()), self.preprocess
        )
        self._outputs = []

    def validation_step(self, batch: NDArray[np.int64], batch_idx: int) -> None:
        """Probabilities of some validation images."""
        assert self._classifier is not None
        items = np.asarray(batch)
        self._outputs.append(
            (items, mean_probabilities(self._classifier, self.validation, items, self.config.modalities))
        )

    def on_validation_epoch_end(self) -> None:
        """Macro AUC of each trained modality; the worst of them selects the checkpoint."""
        items = np.concatenate([items for items, _ in self._outputs])
        probabilities = np.concatenate([probabilities for _, probabilities in self._outputs])
        scores = []
        for index, name in enumerate(self.config.modalities):
            mine = self.validation.modalities[items] == index
            scores.append(macro_auc(self.validation.labels[items[mine]], probabilities[mine]))
            self.record(f"validation/macro_auc/{name}", scores[-1])
        worst = min(scores)
        self.record(SELECTED_BY, worst)
        self.log(SELECTED_BY, worst)
        self._classifier = None

    def configure_optimizers(self) -> Any:
        """AdamW, decay on matrices only; linear warm-up, then a cosine to zero."""
        trained = [value for value in self.clip.parameters() if value.requires_grad]
        groups = [
            {"params": [value for value in trained if value.ndim >= 2], "weight_decay": self.config.weight_decay},
            {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        warmup, steps = self.config.warmup_steps, self.config.steps

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the run that was killed."""
        self.history = [tuple(row) for row in checkpoint["history"]]
