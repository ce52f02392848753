"""Policies: pure functions that decide where to run, when to save, and which commits to keep.

    rule        when to be on spot, on demand or idle, as arithmetic over the slack, and the safety layer beneath
    placement   wait, launch which offer, stay, or move; on-demand only when asked for
    episode     the rules over recorded markets, by the million hours; `optimum` knows the future
    cadence     how often to save: a fixed interval, or Young and Daly's from measured costs; and what a notice asks for
    retention   which commits to keep

They read no clock: `now` is an argument, so the same policy runs in the controller, in a forecast and in a simulation.
"""

from spotrun.policy.cadence import Cadence, FixedInterval, YoungDaly, notice_save_due
from spotrun.policy.cooldown import Cooldown, Hold
from spotrun.policy.placement import Decision, LaunchOffer, Move, Placement, Ruled, SpotOnly, Stay, Wait, placement
from spotrun.policy.retention import Best, CommitFacts, Retention, retention_from_json, retention_from_text
from spotrun.policy.situation import Interruption, Running, Situation, expected_changeover, situation

__all__ = [
    "Best",
    "Cadence",
    "CommitFacts",
    "Cooldown",
    "Decision",
    "FixedInterval",
    "Hold",
    "Interruption",
    "LaunchOffer",
    "Move",
    "Placement",
    "Retention",
    "Ruled",
    "Running",
    "Situation",
    "SpotOnly",
    "Stay",
    "Wait",
    "YoungDaly",
    "expected_changeover",
    "notice_save_due",
    "placement",
    "retention_from_json",
    "retention_from_text",
    "situation",
]
