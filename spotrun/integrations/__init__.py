"""Callbacks for frameworks that own the training loop: three lines make their trainings resumable.

    lightning     `SpotrunCallback` for Lightning's Trainer
    transformers  `SpotrunCallback` for the Trainer of Hugging Face
    accelerate    `attach` for loops on Hugging Face Accelerate
    loader        `ResumableLoader`: a loader that keeps its place, for any trainer that asks loaders for their state

None of the frameworks is needed to import this package; each module needs its own.
"""

from spotrun.integrations.loader import ResumableLoader

__all__ = ["ResumableLoader"]
