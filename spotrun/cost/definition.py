"""The words of a report and what they mean, as the page prints them; `docs/report.md` tells the same at length."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFINITIONS", "Definition"]


class Definition(NamedTuple):
    """A word, its meaning, and its formula where there is one."""

    word: str
    meaning: str
    formula: str = ""


DEFINITIONS = (
    Definition(
        "Paid",
        "The price that held in each second of each attempt, in its zone, over the seconds that are billed, and extras.",
        "T = Σ nodes × ∫ price dt + extras",
    ),
    Definition(
        "Billed",
        "Per second, sixty seconds at least. Spot capacity that the provider takes back within its first hour is free.",
    ),
    Definition(
        "On-demand run",
        "What one uninterrupted on-demand run of the same useful work would have cost: one start-up, no restore, no lost "
        "work, no waiting, at the dated on-demand price of the same machines.",
        "CF = ∫ on-demand price dt over D + extras, D = one start-up + useful + checkpoints",
    ),
    Definition("Net savings", "What the job really saved. It may be negative.", "NS = CF − T"),
    Definition(
        "Price discount",
        "Gross savings: the same hours at the on-demand price, less what the machines cost. This is what the EC2 console "
        "calls savings; it counts wasted hours as saved.",
        "G = on-demand price of the hours that ran − compute",
    ),
    Definition("Useful", "Training whose result is in the final model; while the job runs, also what may still be."),
    Definition(
        "Lost work",
        "Training after the capture of the last checkpoint that a later attempt resumed from. It is counted once, in the "
        "attempt that lost it; doing it again is useful.",
    ),
    Definition("Start-up", "From the launch of a machine until the training attaches to its run."),
    Definition("Setup", "The job's setup commands, told apart from the start-up that they are a part of."),
    Definition("Restore", "Reading the checkpoint, until the first batch is asked for."),
    Definition("Checkpoints", "The time the training loop stood still for checkpoints; overlapped saving costs none."),
    Definition("Idle", "After the last step: uploading results, exiting, and waiting for the machine to be gone."),
    Definition(
        "Waste",
        "Money without a result that the on-demand run would have spared.",
        "W = lost + restore + idle + every start-up but one",
    ),
    Definition(
        "Goodput",
        "The share of the running time that was useful; the second figure takes all time since submission.",
        "useful / running,  useful / wall",
    ),
    Definition("Delay", "How much later the job was done than the on-demand run would have been.", "wall time − D"),
    Definition(
        "Break-even price",
        "Spot saves money while its price is below this share of the on-demand price, at this much overhead.",
        "(CF − extras) / on-demand price of the hours that ran",
    ),
    Definition(
        "Margin",
        "Between an attempt's last checkpoint becoming durable and the loss of its machine.",
    ),
)
