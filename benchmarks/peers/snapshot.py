"""torchsnapshot 0.1.0 (2022), straight to S3. Its ready-made reader and writer take the endpoint from the environment."""

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
from endpoint import BUCKET
from torch import nn

from peers import Method, Place

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchsnapshot import Snapshot


class Torchsnapshot(Method):
    @classmethod
    def warm(cls, place: Place) -> None:
        from aiobotocore.session import get_session

        async def work() -> None:
            async with get_session().create_client("s3") as client:
                await client.put_object(Bucket=BUCKET, Key="warm", Body=b"warm")

        asyncio.run(work())

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        self.thread = ThreadPoolExecutor(1)

    def write(self, key: str) -> None:
        state = {"model": self.model, "optimizer": self.optimizer}
        pending = Snapshot.async_take(f"s3://{BUCKET}/{key}", state)
        self.future = self.thread.submit(pending.wait)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        Snapshot(f"s3://{BUCKET}/{key}").restore({"model": model, "optimizer": optimizer})
