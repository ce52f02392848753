"""Data order and randomness that depend on nothing but (seed, epoch, index).

    sampler = spotrun.data.CounterSampler(dataset, seed=1)          # the order of an epoch, from a counter
    dataset = spotrun.data.PerSampleRandom(dataset, seed=1)         # augmentation as it is, made repeatable
    generator = spotrun.data.rng(index)                             # or: randomness of one sample, asked for
    loader = spotrun.data.Endless(loader)                           # again and again, shuffled anew in each round

Nothing here has a state that could be lost: a resume with any number of workers sees the same samples with the same
augmentation, and no skipped sample is loaded. The numbers come from Philox, a counter-based generator: the key is
(seed, epoch), the counter is the sample. Only its raw words are used, which NumPy keeps the same over versions.
"""

from spotrun.data.endless import Endless
from spotrun.data.order import CounterSampler
from spotrun.data.sample import Index, PerSampleRandom, rng

__all__ = ["CounterSampler", "Endless", "Index", "PerSampleRandom", "rng"]
