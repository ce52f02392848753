"""What goes wrong in a simulated world, and how often.

Each seed draws its own mixture: about half of the kinds are off in any one world. With everything on in every world, faults
hide each other: a controller that dies every minute never lives long enough to be outrun by another one. Source: Groce et
al., "Swarm Testing", ISSTA 2012.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["CALM", "Faults"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Rates are shares of calls unless the name says otherwise; spans are in seconds, and drawn up to the one given."""

    crash: float = 0.0  # of a controller's calls outside: it dies before or after one
    absent_s: float = 0.0  # for which, once, no controller runs
    second: bool = False  # a second controller on the same journal
    slow: float = 0.0  # the caller stands still in the call, while the others act
    slow_s: float = 60.0
    skew_s: float = 0.0  # each computer's clock is ahead or behind by up to so much
    provider_refused: float = 0.0  # throttled, timed out or expired credentials: nothing was done
    provider_lost: float = 0.0  # done, and the answer lost
    store_refused: float = 0.0  # 500, 503, time-out, stale credentials: nothing was done
    store_lost: float = 0.0
    store_late: float = 0.0  # of writes: timed out, and carried out some time after
    store_torn: float = 0.0  # of reads: truncated, or a byte differs
    journal_refused: float = 0.0  # locked, or its disk is full
    journal_lost: float = 0.0  # written, and the acknowledgement lost
    cut_mean_s: float = 0.0  # between two network partitions; 0: none
    cut_s: float = 600.0
    no_capacity: float = 0.0  # of launches, in zones that have some
    zone_up_s: float = 1e9  # mean time for which a zone has capacity; then it takes its machines back
    zone_down_s: float = 1200.0
    mean_up_s: float = 1e9  # until a single machine is taken back
    notice_s: float = 120.0  # from a notice to the end
    without_notice: float = 0.0  # of interruptions
    leaves: float = 0.0  # of notices: the command saves and ends, and its machine is left to the provider
    deaf: float = 0.0  # of notices: the listing never shows them
    lag_s: float = 0.0  # until a new machine is listed
    stale_s: float = 0.0  # for which an ended machine is still listed as running
    forgets: float = 0.0  # of terminations: accepted, and not carried out
    doubled: float = 0.0  # of lost launches: two machines for one token, against the provider's promise
    dies: float = 0.0  # of a machine's calls to the store: it is taken back before or after one
    zombie_s: float = 0.0  # for which a machine that is gone still writes
    hangs: float = 0.0  # of machines: it freezes for a while, and goes on
    hang_s: float = 2400.0
    mute: float = 0.0  # of machines: the agent never starts
    lingers: float = 0.0  # of machines: it does not shut down when its command is over
    fails: float = 0.0  # of attempts: the command fails
    disk_full: float = 0.0  # of saves: there is no room for the snapshot

    @classmethod
    def draw(cls, dice: random.Random) -> Faults:
        """The mixture of one world."""

        def some(most: float, share: float = 0.55) -> float:
            return dice.uniform(most / 5, most) if dice.random() < share else 0.0

        if dice.random() < 0.03:
            return CALM
        return cls(
            crash=some(0.02),
            absent_s=dice.uniform(1200, 4800) if dice.random() < 0.12 else 0.0,
            second=dice.random() < 0.3,
            slow=some(0.02),
            slow_s=dice.choice((20.0, 90.0, 400.0)),
            skew_s=some(60.0),
            provider_refused=some(0.08),
            provider_lost=some(0.2),
            store_refused=some(0.06),
            store_lost=some(0.05),
            store_late=some(0.03),
            store_torn=some(0.03),
            journal_refused=some(0.02),
            journal_lost=some(0.02),
            cut_mean_s=dice.uniform(3600, 9000) if dice.random() < 0.4 else 0.0,
            no_capacity=some(0.3),
            zone_up_s=dice.uniform(3000, 12000) if dice.random() < 0.6 else 1e9,
            mean_up_s=dice.uniform(2500, 9000) if dice.random() < 0.8 else 1e9,
            notice_s=dice.choice((120.0, 120.0, 280.0)),
            without_notice=dice.random(),
            leaves=some(1.0, 0.4),
            deaf=some(1.0),
            lag_s=some(200.0),
            stale_s=some(90.0),
            forgets=some(0.5, 0.3),
            doubled=some(0.8, 0.3),
            dies=some(0.006),
            zombie_s=some(500.0, 0.7),
            hangs=some(0.3),
            mute=some(0.15),
            lingers=some(0.3),
            fails=some(0.2, 0.3),
            disk_full=some(0.1, 0.3),
        )


CALM = Faults()
