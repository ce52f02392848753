"""A Lightning training with spotrun's callback, as a user would write it; fifteen batches in three epochs."""

import warnings

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from spotrun.integrations.lightning import SpotrunCallback

warnings.simplefilter("ignore")


class Small(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        (x,) = batch
        return self.net(x + 0.1 * torch.randn_like(x)).square().mean()

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3), "interval": "step"}]


if __name__ == "__main__":
    pl.seed_everything(3, verbose=False)
    data = TensorDataset(torch.arange(80.0).reshape(20, 4) / 80)
    trainer = pl.Trainer(max_epochs=3, callbacks=[SpotrunCallback()], accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.fit(Small(), DataLoader(data, batch_size=4, shuffle=True))
