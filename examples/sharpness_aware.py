"""Sharpness-aware training in a loop of your own, in Hugging Face's Trainer, or in Lightning.

python examples/sharpness_aware.py             # plain PyTorch
python examples/sharpness_aware.py trainer     # needs: pip install transformers accelerate
python examples/sharpness_aware.py lightning   # needs: pip install lightning
"""

import sys

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from landform import data
from landform.models import ConvNet
from landform.optim import SAM

EPOCHS = 5
splits = data.load("digits")
train, test = splits["train"], splits["test"]
model = ConvNet(1, len(train.classes), norm="batch")
# Any base optimiser; `model` is named for the running statistics of its batch normalisation, and not needed without.
optimizer = SAM(model.parameters(), torch.optim.AdamW, rho=0.05, lr=3e-3, weight_decay=0.01, model=model)


def plain() -> None:
    """SAM calls the closure twice. In mixed precision: ``optimizer.step(closure, scaler=scaler)``, then update it."""
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=EPOCHS * 22)
    for _ in range(EPOCHS):
        for x, y in DataLoader(TensorDataset(train.x, train.y), 64, shuffle=True):

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
            schedule.step()


def trainer() -> None:
    """The Trainer hands over no closure, but calls ``optimizer.step()`` once: that is SAM's second half.

    For one micro-batch a step (``gradient_accumulation_steps=1``), and without a gradient scaler (32 bits or bf16).
    """
    from transformers import Trainer, TrainingArguments

    class SharpnessAwareTrainer(Trainer):
        def training_step(self, model, inputs, *rest):  # type: ignore[no-untyped-def]
            loss = super().training_step(model, inputs, *rest)
            sam = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
            sam.first_step(zero_grad=True)
            super().training_step(model, inputs, *rest)
            return loss

        def compute_loss(self, model, inputs, return_outputs=False, **_):  # type: ignore[no-untyped-def]
            logits = model(inputs["x"])
            loss = cross_entropy(logits, inputs["labels"])
            return (loss, {"logits": logits}) if return_outputs else loss

    arguments = TrainingArguments(
        "sharpness-aware", num_train_epochs=EPOCHS, per_device_train_batch_size=64, remove_unused_columns=False
    )
    samples = [{"x": x, "labels": y} for x, y in zip(train.x, train.y, strict=True)]
    SharpnessAwareTrainer(model, arguments, train_dataset=samples, optimizers=(optimizer, None)).train()


def lightning() -> None:
    """Lightning's automatic optimisation hands a closure over, which SAM may call twice. Nothing else is needed."""
    import lightning as L

    class Classifier(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    loader = DataLoader(TensorDataset(train.x, train.y), 64, shuffle=True)
    L.Trainer(max_epochs=EPOCHS, logger=False, enable_checkpointing=False).fit(Classifier(), loader)


loops = {"plain": plain, "trainer": trainer, "lightning": lightning}
loops[sys.argv[1] if len(sys.argv) > 1 else "plain"]()
with torch.no_grad():
    accuracy = (model.cpu().eval()(test.x).argmax(1) == test.y).float().mean()
print(f"{accuracy:.1%} on the test split")
