"""An exhaustive checker of the log's protocol: every interleaving of a few writers, lost replies and damage.

It drives the real machines of `spotrun.store.protocol`; only the store and the writers' program around them are
modelled. A state is (log, writers, faults left, what was acknowledged); from each, every writer's pending request may be
the next to arrive, and may lose its reply.

A writer's program: claim; restore the last commit; commit step after step up to `steps`; stop when told to. A reply may
be lost in three ways: the client library asks the same again; the caller sees an error and calls again; the caller sees
an error while the request is still on its way and arrives later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from spotrun.store.log import ClaimEntry, CommitEntry, DamagedEntry, Entry
from spotrun.store.protocol import (
    Claimed,
    Claiming,
    Committed,
    Committing,
    Create,
    Created,
    Doubtful,
    Listed,
    Listing,
    Machine,
    Me,
    Outcome,
    ReadEntries,
    Reading,
    Reply,
    Request,
    Superseded,
)

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Rules:
    """The machines under test, and the faults of the world around them."""

    claiming: type[Claiming] = Claiming
    committing: type[Committing] = Committing
    steps: int = 2
    lost_replies: int = 2
    delayed: bool = False  # requests may arrive after their caller has given up
    damages: int = 0  # entries that become unreadable
    vanishings: int = 0  # entries that disappear from the middle
    overwrites: bool = False  # the server ignores "only if absent"
    trims: bool = False  # a writer that commits cuts the log to its last two entries


@dataclass(frozen=True, slots=True)
class Writer:
    me: Me
    machine: Machine | None = None
    request: Request | None = None
    claim: ClaimEntry | None = None
    log: tuple[Entry, ...] = ()
    step: int = 0  # the last step it has committed or restored
    done: bool = False


@dataclass(frozen=True, slots=True)
class World:
    log: tuple[tuple[int, Entry], ...]
    writers: tuple[Writer, ...]
    losses: int
    damages: int
    vanishings: int
    hurt: bool = False  # by an accident: then acknowledgements are held to the rules, not what the damage shows
    flying: tuple[Create, ...] = ()  # requests whose caller has given up
    acked_step: int = 0
    acked_seq: int = 0  # of the last acknowledged commit
    acked_claim: int = 0  # number of the last acknowledged claim in the log
    acked_claimer: int = 0  # newest attempt whose claim was acknowledged

    def entry(self, seq: int) -> Entry:
        for number, entry in self.log:
            if number == seq:
                return entry
        return DamagedEntry(seq=seq, reason="it is missing")

    @property
    def last(self) -> int:
        return self.log[-1][0] if self.log else 0

    @property
    def visible(self) -> int:
        return next((entry.step for _, entry in reversed(self.log) if isinstance(entry, CommitEntry)), 0)


@dataclass(frozen=True)
class Checked:
    """What a check found: how many states there are, and by which rule which story breaks it."""

    states: int
    violations: dict[str, list[str]]
    acknowledged: int  # the highest step ever acknowledged: the search went somewhere


def check(writers: tuple[Me, ...], rules: Rules, *, until: str = "never", limit: int = 300_000) -> Checked:
    """Visits every reachable state, or stops at the first rule broken whose name starts with `until`."""
    start = World((), tuple(Writer(me) for me in writers), rules.lost_replies, rules.damages, rules.vanishings)
    seen: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    violations: dict[str, list[str]] = {}
    acknowledged = 0
    while queue:
        world = queue.popleft()
        for what, after, faults in _successors(world, rules):
            if faults:
                for fault in faults:
                    violations.setdefault(fault, [*_story(seen, world), what])
                    if fault.startswith(until):
                        return Checked(len(seen), violations, acknowledged)
            elif after not in seen:
                seen[after] = (world, what)
                acknowledged = max(acknowledged, after.acked_step)
                queue.append(after)
        if len(seen) > limit:
            raise AssertionError(f"more than {limit} states")
    return Checked(len(seen), violations, acknowledged)


def _story(seen: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    told = []
    while (before := seen[world]) is not None:
        world, what = before
        told.append(what)
    return told[::-1]


_Step = tuple[str, World, list[str]]


def _successors(world: World, rules: Rules) -> Iterator[_Step]:
    for index, writer in enumerate(world.writers):
        who = f"{writer.me.writer}/{writer.me.attempt}"

        def put(changed: Writer, there: World = world, index: int = index) -> World:
            return replace(there, writers=(*there.writers[:index], changed, *there.writers[index + 1 :]))

        if writer.done:
            continue
        if writer.request is None:
            if writer.claim is not None and writer.step >= rules.steps:
                continue
            yield f"{who} begins", put(_begin(writer, rules)), []
            continue
        after, reply, faults = _serve(world, writer, writer.request, rules)
        asked = _told(writer.request)
        yield _go_on(f"{who} {asked}: {_told(reply)}", after, writer, reply, faults, put)
        if not isinstance(writer.request, Create) or not world.losses:
            continue
        lossy = replace(after, losses=world.losses - 1)
        yield f"{who} {asked}: reply lost, asked again", put(writer, lossy), faults
        yield f"{who} {asked}: reply lost, called again", put(_begin(writer, rules), lossy), faults
        if writer.claim is not None and writer.step + 2 <= rules.steps:
            later = _begin(replace(writer, step=writer.step + 1), rules)
            yield f"{who} {asked}: reply lost, later commit", put(later, lossy), faults
        if rules.delayed:
            late = replace(world, losses=world.losses - 1, flying=(*world.flying, writer.request))
            yield f"{who} {asked}: delayed, called again", put(_begin(writer, rules), late), []
    for request in world.flying:
        still = tuple(other for other in world.flying if other is not request)
        after, faults = _create(replace(world, flying=still), request, rules)
        yield f"late arrival of {_told(request)}", after, faults
    yield from _accidents(world)


def _accidents(world: World) -> Iterator[_Step]:
    for number, entry in world.log:
        if world.damages and not isinstance(entry, DamagedEntry):
            torn = DamagedEntry(seq=number, reason="torn")
            log = tuple((n, torn if n == number else e) for n, e in world.log)
            yield f"entry {number} is damaged", replace(world, log=log, damages=world.damages - 1, hurt=True), []
        if world.vanishings and number != world.last:
            log = tuple(item for item in world.log if item[0] != number)
            yield f"entry {number} vanishes", replace(world, log=log, vanishings=world.vanishings - 1, hurt=True), []


def _begin(writer: Writer, rules: Rules) -> Writer:
    if writer.claim is None:
        machine, request = rules.claiming(writer.me, AT, ()).start()
    else:
        entry = CommitEntry(
            seq=len(writer.log) + 1, attempt=writer.claim.attempt, writer=writer.me.writer, token=writer.me.token, at=AT,
            step=writer.step + 1, manifest="", manifest_size=0, digest=f"{writer.step + 1}", size=0,
        )  # fmt: skip
        machine, request = rules.committing(entry, writer.log).start()
    assert isinstance(request, Listing | Reading | Create)
    return replace(writer, machine=machine, request=request)


def _serve(world: World, writer: Writer, request: Request, rules: Rules) -> tuple[World, Reply, list[str]]:
    match request:
        case Listing():
            return world, Listed(world.last), []
        case Reading(seqs):
            return world, ReadEntries(tuple(world.entry(seq) for seq in seqs)), []
        case Create(entry):
            after, faults = _create(world, request, rules)
            if after is not world and rules.trims and isinstance(entry, CommitEntry):
                after = replace(after, log=after.log[-2:])
            return after, Created(after is not world), faults


def _create(world: World, request: Create, rules: Rules) -> tuple[World, list[str]]:
    entry = request.entry
    if any(number == entry.seq for number, _ in world.log) and not rules.overwrites:
        return world, []
    log = {**dict(world.log), entry.seq: entry}
    after = replace(world, log=tuple(sorted(log.items(), key=lambda item: item[0])))
    faults = []
    if isinstance(entry, CommitEntry) and not world.hurt:
        if world.acked_claimer > entry.attempt:
            faults.append(f"I1 commit of attempt {entry.attempt} applied after the claim of {world.acked_claimer}")
        if after.visible < world.visible:
            faults.append("I3 the visible step went back")
    return after, faults


def _go_on(
    what: str, world: World, writer: Writer, reply: Reply, faults: list[str], put: Callable[[Writer, World], World]
) -> _Step:
    assert writer.machine is not None
    machine, then = writer.machine.take(reply)
    if isinstance(then, Listing | Reading | Create):
        return what, put(replace(writer, machine=machine, request=then), world), faults
    after, changed, more = _end(world, writer, then)
    return f"{what} -> {type(then).__name__}", put(changed, after), faults + more


def _end(world: World, writer: Writer, outcome: Outcome) -> tuple[World, Writer, list[str]]:
    hurt = world.hurt
    idle = replace(writer, machine=None, request=None)
    others = [e for _, e in world.log if isinstance(e, ClaimEntry) and e.token != writer.me.token]
    match outcome:
        case Claimed(claim, log):
            restored = next((e.step for e in reversed(log) if isinstance(e, CommitEntry)), 0)
            newest = all(e.attempt <= claim.attempt and e.seq < claim.seq for e in others)
            newest = newest and world.acked_claim <= claim.seq
            faults = []
            if newest and not hurt and restored < world.acked_step:
                faults.append(f"I2 restored step {restored}, but {world.acked_step} was acknowledged")
            if newest and len(log) < world.acked_seq:
                faults.append("I2 the claim does not know an acknowledged commit")
            after = replace(
                world,
                acked_claim=max(world.acked_claim, claim.seq),
                acked_claimer=max(world.acked_claimer, claim.attempt),
            )
            return after, replace(idle, claim=claim, log=log, step=restored), faults
        case Committed(entry, log):
            assert writer.claim is not None
            faults = []
            if world.acked_claim > writer.claim.seq:
                faults.append(
                    "I6 a commit was acknowledged to a writer behind whose claim there is an acknowledged one"
                )
            if not hurt and world.visible < entry.step:
                faults.append("I5 an acknowledged commit is not visible")
            after = replace(
                world, acked_step=max(world.acked_step, entry.step), acked_seq=max(world.acked_seq, entry.seq)
            )
            return after, replace(idle, log=log, step=entry.step), faults
        case Superseded():
            alone = not any(e.attempt >= (writer.me.attempt or 1) for e in others)
            return world, replace(idle, done=True), ["I4 the newest fenced itself"] if alone and not hurt else []
        case Doubtful():
            return world, replace(idle, done=True), [] if hurt else ["I4 the newest doubts itself"]


def _told(thing: Request | Reply) -> str:
    match thing:
        case Listing():
            return "lists"
        case Reading(seqs):
            return f"reads {seqs}"
        case Create(ClaimEntry() as entry):
            return f"claims at {entry.seq} as {entry.attempt}"
        case Create(entry):
            return f"commits step {entry.step} at {entry.seq}"
        case Listed(last):
            return f"last is {last}"
        case ReadEntries(entries):
            return f"{len(entries)} entries"
        case Created(done):
            return "created" if done else "taken"
