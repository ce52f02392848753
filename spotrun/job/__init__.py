"""A job, purely: what the user asks for, what happens to it, what it is, and what it asks for next.

    spec      what the user wants, validated once at the edge
    event     what can happen: a closed set of small values, the journal's lines
    state     what a job is: the fold of its events
    step      (job, event) -> (job, actions): all of the controller's logic
    message   what training, agent and controller tell each other

Nothing here reads a clock, an environment or a random number; time enters as `at` of each event. The same code runs in
the controller, in forecasts, in simulations of months, and in chaos tests.
"""

from spotrun.job.demand import EXIT_GRACE, STOP_GRACE, control, outstanding
from spotrun.job.ending import LOSSES_MAX
from spotrun.job.event import (
    Alternative,
    AttemptEnded,
    AttemptExited,
    EndReason,
    Event,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    Placed,
    PoolRefusal,
    Progressed,
    RefusalKind,
    StopRequested,
    Submitted,
    Ticked,
    Waited,
    decode,
    encode,
)
from spotrun.job.gang_size import GangSize
from spotrun.job.invariant import check_invariants
from spotrun.job.legality import LEGAL, diagram
from spotrun.job.limit import NOTICE_GRACE
from spotrun.job.message import Ask, Commit, Control, Exit, Heartbeat, Outcome, Progress, Request, TrainingPhase
from spotrun.job.schema import json_schema, load_spec
from spotrun.job.spec import (
    MAX_RUN_WITHOUT_CHECKPOINT,
    Best,
    Checkpoint,
    Code,
    Ec2,
    Folder,
    GeneratorMarket,
    JobSpec,
    Keep,
    Limits,
    LocalMarket,
    OnShortage,
    Options,
    PolicyName,
    Rebalance,
    Resources,
    Signing,
    TraceMarket,
)
from spotrun.job.state import Action, Attempt, AttemptPhase, Ending, Job, Launch, Phase, Place, Refusal, Terminate
from spotrun.job.step import fold, is_news, step
from spotrun.job.story import tell
from spotrun.job.token import launch_token

__all__ = [
    "EXIT_GRACE",
    "LEGAL",
    "LOSSES_MAX",
    "MAX_RUN_WITHOUT_CHECKPOINT",
    "NOTICE_GRACE",
    "STOP_GRACE",
    "Action",
    "Alternative",
    "Ask",
    "Attempt",
    "AttemptEnded",
    "AttemptExited",
    "AttemptPhase",
    "Best",
    "Checkpoint",
    "Code",
    "Commit",
    "Control",
    "Ec2",
    "EndReason",
    "Ending",
    "Event",
    "Exit",
    "Folder",
    "GangSize",
    "GeneratorMarket",
    "Heartbeat",
    "Job",
    "JobSpec",
    "Keep",
    "Launch",
    "LaunchRefused",
    "Launched",
    "Limits",
    "LocalMarket",
    "MoveDecided",
    "Noticed",
    "OnShortage",
    "Options",
    "Outcome",
    "Phase",
    "Place",
    "Placed",
    "PolicyName",
    "PoolRefusal",
    "Progress",
    "Progressed",
    "Rebalance",
    "Refusal",
    "RefusalKind",
    "Request",
    "Resources",
    "Signing",
    "StopRequested",
    "Submitted",
    "Terminate",
    "Ticked",
    "TraceMarket",
    "TrainingPhase",
    "Waited",
    "check_invariants",
    "control",
    "decode",
    "diagram",
    "encode",
    "fold",
    "is_news",
    "json_schema",
    "launch_token",
    "load_spec",
    "outstanding",
    "step",
    "tell",
]
