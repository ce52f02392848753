"""The imperative shell: looks at the outside, journals what it sees, carries out what the pure core asks for.

    journal      each job's append-only events and the controllers' lease, in SQLite or PostgreSQL
    lease        of all controllers on one journal, one acts; the journal refuses the others' epochs
    controller   the loop over all jobs
    reconcile    one job's turn: look, record, act
    sighting     what provider and agent show, as events
    executor     actions, one try each
    stage        where attempts run, and what each is told at its launch
    outside      everything outside as one value, so that simulation and reality differ in nothing else
    submit       handing in a job
    rehearsal    what a submission would lead to, without doing it
    ask          what anybody may do: read a job, ask for its end
    follow       the read side for faces
    account      a job's ledger and report

Two rules carry it. An event is durable before anything follows from it. And every action is safe to repeat: a launch by
its token, an end by its nature. So a controller killed anywhere loses and doubles nothing. `docs/controller.md` tells
more.
"""

from spotrun.controller.account import Accountant
from spotrun.controller.address import checkpoint_uri, open_at, place_uri
from spotrun.controller.ask import read_job, request_stop
from spotrun.controller.controller import Controller
from spotrun.controller.follow import Follower, LogPiece, MetricRow
from spotrun.controller.journal import Journal, Recorded, Tenure
from spotrun.controller.lease import Lease
from spotrun.controller.outside import Outside, job_clock, real_outside
from spotrun.controller.rehearsal import Rehearsal, rehearse
from spotrun.controller.submit import submit
from spotrun.controller.timing import Timing

__all__ = [
    "Accountant",
    "Controller",
    "Follower",
    "Journal",
    "Lease",
    "LogPiece",
    "MetricRow",
    "Outside",
    "Recorded",
    "Rehearsal",
    "Tenure",
    "Timing",
    "checkpoint_uri",
    "job_clock",
    "open_at",
    "place_uri",
    "read_job",
    "real_outside",
    "rehearse",
    "request_stop",
    "submit",
]
