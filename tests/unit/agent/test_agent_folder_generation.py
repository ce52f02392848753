"""When a folder is whole: tables and random histories over the pure function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotrun.agent.folder.generation import Patience, Waiting, Watch, Whole, key_of
from spotrun.agent.folder.listing import File, Link, Listing
from spotrun.agent.folder.rule import Rules
from spotrun.agent.folder.step import numbered, step_of
from spotrun.job.spec import Folder

QUIET_S = 5.0
PATIENCE = Patience(QUIET_S, int(QUIET_S * 1e9))
RULES = Rules.of(Folder(path="out"))


def file(path: str, size: int = 1, mtime_s: float = 0.0, inode: int = 1) -> File:
    return File(path, (size, int(mtime_s * 1e9), int(mtime_s * 1e9), inode), 0o644)


def listing(*files: File, links: tuple[Link, ...] = (), rules: Rules = RULES) -> Listing:
    told = Listing(links={link.path: link for link in links})
    for each in files:
        (told.temporaries if rules.temporary.fits(each.path) else told.files)[each.path] = each
    return told


class Film:
    """Looks one after the other."""

    def __init__(self, first: Listing | None = None, rules: Rules = RULES, patience: Patience = PATIENCE) -> None:
        self.rules, self.patience = rules, patience
        self.watch = Watch.begin(first or listing(), rules, 0.0)

    def look(self, now_s: float, seen: Listing, writing: frozenset[str] = frozenset()) -> Whole | Waiting:
        self.watch, verdict = self.watch.look(seen, self.rules, now_s=now_s, writing=writing, patience=self.patience)
        return verdict

    def whole(self, now_s: float, seen: Listing, writing: frozenset[str] = frozenset()) -> bool:
        return isinstance(self.look(now_s, seen, writing), Whole)


def test_a_file_written_in_place_is_whole_once_it_has_been_quiet() -> None:
    """Each change begins the quiet time anew; the state in it is as old as the last look before its first change."""
    film = Film()
    assert not film.whole(1, listing(file("a.pt", 10, 1)))
    assert not film.whole(3, listing(file("a.pt", 20, 3)))
    assert not film.whole(7, listing(file("a.pt", 20, 3)))
    verdict = film.look(8, listing(file("a.pt", 20, 3)))
    assert isinstance(verdict, Whole)
    assert verdict.changed_s == 0


def test_a_file_renamed_into_its_place_is_a_change_of_its_name() -> None:
    """Its own times may be old; what was there before may even have had the same size and times."""
    film = Film(listing(file("a.pt", 20, 3, inode=1)))
    assert film.whole(10, listing(file("a.pt", 20, 3, inode=1)))
    assert not film.whole(11, listing(file("a.pt", 20, 3, inode=2)))
    assert film.whole(16, listing(file("a.pt", 20, 3, inode=2)))
    assert not film.whole(17, listing(file("b.pt", 20, 3, inode=2)))


def test_a_removed_file_and_a_moved_link_are_changes() -> None:
    """So the next generation is taken without the file, and with the link's new target."""
    first = listing(file("a"), file("b"), links=(Link("latest", "a"),))
    film = Film(first)
    assert film.whole(1, first)
    assert not film.whole(2, listing(file("b"), links=(Link("latest", "a"),)))
    assert not film.whole(4, listing(file("b"), links=(Link("latest", "b"),)))
    assert not film.whole(8, listing(file("b"), links=(Link("latest", "b"),)))
    assert film.whole(9, listing(file("b"), links=(Link("latest", "b"),)))


@pytest.mark.parametrize(
    "name", ["a.pt.tmp", "x/a.part", "a.temp", "tmp-checkpoint-500/model.bin", "a.incomplete", "a.pt~", ".nfs0001"]
)
def test_an_unfinished_name_keeps_the_folder_from_being_whole_until_nobody_touches_it(name: str) -> None:
    """It is never in a generation; one that was left behind for good does not hold up anything for ever."""
    film = Film()
    seen = listing(file("a.pt"), file(name, 5, 1))
    assert not film.whole(1, seen)
    assert not film.whole(20, seen)
    assert not film.whole(60, listing(file("a.pt"), file(name, 6, 60)))
    verdict = film.look(121, listing(file("a.pt"), file(name, 6, 60)))
    assert isinstance(verdict, Whole)
    assert set(verdict.listing.files) == {"a.pt"}


def test_a_file_that_is_open_for_writing_is_not_whole_however_quiet() -> None:
    """torch.save of a large state may compute for long between two writes; a file open for ever does not count."""
    film = Film()
    seen = listing(file("a.pt", 5, 1), file("run.log", 5, 1))
    assert not film.whole(1, seen, frozenset({"a.pt"}))
    assert not film.whole(50, seen, frozenset({"a.pt"}))
    assert film.whole(51, seen, frozenset({"run.log"}))
    assert film.whole(62, seen, frozenset({"a.pt"}))


def test_growing_files_are_not_waited_for() -> None:
    """A log that gets a line every second; but one that becomes shorter is being written anew."""
    film = Film()
    logs = ("events.out.tfevents.1", "lightning/metrics.csv", "train.log")
    for now in range(1, 20):
        seen = listing(file("a.pt"), *(file(name, now, now) for name in logs))
        assert film.whole(now, seen) is (now >= 6)
    assert not film.whole(20, listing(file("a.pt"), file(logs[0], 20, 20), file(logs[1], 2, 20), file(logs[2], 20, 20)))


def test_the_growth_of_a_log_alone_is_no_new_generation() -> None:
    """Else a folder with a log would be committed all the time."""
    one, two = (listing(file("a.pt"), file("train.log", size, size)) for size in (1, 2))
    assert key_of(one, RULES) == key_of(two, RULES)
    assert key_of(one, RULES) != key_of(listing(file("a.pt", 2), file("train.log")), RULES)


def test_a_folder_that_took_long_to_write_must_be_quiet_for_longer() -> None:
    """A writer of many files over 40 s may well pause for six."""
    film = Film()
    files: list[File] = []
    for now in range(0, 44, 4):
        files.append(file(f"part-{now}", 1, now))
        assert not film.whole(now, listing(*files))
    assert not film.whole(46, listing(*files))
    assert film.whole(51, listing(*files))


def saved_all_the_time(film: Film, path: str, until_s: int, *others: File, period_s: int = 4) -> None:
    """One look a second at a file that is written anew again and again, in a second each time."""
    for now in range(1, until_s):
        size = 10 if now % period_s else 5
        seen = listing(*others, file(path, size, now - now % period_s if size == 5 else now - now % period_s + 1))
        film.look(now, seen)


def test_one_file_that_is_saved_all_the_time_is_whole_between_two_saves() -> None:
    """There is never a quiet time. It must be known to be closed, and be the same in two looks."""
    film = Film()
    saved_all_the_time(film, "last.pt", 40, file("config.json"))
    whole = listing(file("config.json"), file("last.pt", 10, 41))
    assert not film.whole(
        40, listing(file("config.json"), file("last.pt", 5, 40))
    )  # it was changed since the last look
    assert not film.whole(41, whole)
    assert not film.whole(42, whole, frozenset({"last.pt"}))
    verdict = film.look(43, whole)
    assert isinstance(verdict, Whole)
    assert verdict.changed_s == 39  # the last look before it was written
    assert isinstance(film.look(44, listing(file("config.json"), file("last.pt", 5, 44))), Waiting)


def test_one_file_is_saved_by_renaming_as_well() -> None:
    """Its size never changes; its inode does."""
    film = Film()
    for now in range(1, 40):
        film.look(now, listing(file("last.pt", 10, 1, inode=now // 3)))
    assert film.whole(40, listing(file("last.pt", 10, 1, inode=13)))


@pytest.mark.parametrize("others", [1, 2])
def test_several_files_that_are_saved_all_the_time_are_never_whole(others: int) -> None:
    """Nobody knows which pause is the one between two saves: a quiet time or a `done` pattern has to tell."""
    film = Film()
    for now in range(1, 200):
        files = [file(f"{number}.pt", 10, now - (now - number) % 4) for number in range(others + 1)]
        assert not film.whole(now, listing(*files)), now


def test_the_first_of_several_files_is_not_alone_however_long_it_takes() -> None:
    """It only grows; and when it is finished the next one has not begun."""
    film = Film()
    for now in range(1, 100):
        assert not film.whole(now, listing(file("model.bin", now // 3, now - now % 3)))
    assert not film.whole(101, listing(file("model.bin", 33, 99)))
    assert not film.whole(102, listing(file("model.bin", 33, 99), file("optimizer.bin", 1, 102)))


def test_where_open_files_are_not_known_a_quiet_time_is_needed() -> None:
    """Not on Linux, a file may be half written whenever it is looked at."""
    film = Film(patience=replace(PATIENCE, sees_writers=False))
    saved_all_the_time(film, "last.pt", 41)
    assert not film.whole(42, listing(file("last.pt", 10, 41)))
    assert not film.whole(43, listing(file("last.pt", 10, 41)))


def test_with_a_done_pattern_only_a_new_such_file_makes_a_generation() -> None:
    """However long the writer pauses before it, and however whole all looks."""
    rules = Rules.of(Folder(path="out", done="checkpoint-*/trainer_state.json"))
    film = Film(rules=rules)
    model, state = file("checkpoint-500/model.bin", 9, 1), file("checkpoint-500/trainer_state.json", 1, 30)
    assert not film.whole(1, listing(model))
    assert not film.whole(29, listing(model))
    assert not film.whole(30, listing(model, state))
    verdict = film.look(36, listing(model, state))
    assert isinstance(verdict, Whole)
    film.watch = film.watch.taken(verdict, rules)
    later = file("checkpoint-600/model.bin", 9, 50)
    assert not film.whole(60, listing(model, state, later))
    assert not film.whole(200, listing(model, state, later))
    assert not film.whole(201, listing(model, state, later, file("checkpoint-600/trainer_state.json", 1, 201)))
    assert film.whole(207, listing(model, state, later, file("checkpoint-600/trainer_state.json", 1, 201)))


def test_the_next_checkpoint_s_first_file_does_not_slip_into_a_done_generation() -> None:
    """It was written after the newest file that says done; a moment after is the writer tidying up."""
    rules = Rules.of(Folder(path="out", done="*/done"))
    film = Film(rules=rules)
    done, tidy, begun = file("1/done", 1, 10), file("latest.txt", 1, 12), file("2/model", 5, 18)
    assert not film.whole(10, listing(done, tidy, begun, rules=rules))
    assert not film.whole(40, listing(done, tidy, begun, rules=rules))
    assert film.whole(60, listing(done, tidy, rules=rules)) is False
    assert film.whole(66, listing(done, tidy, rules=rules))


def test_what_was_there_before_the_command_is_whole_and_taken() -> None:
    """The restored folder is no news."""
    rules = Rules.of(Folder(path="out", done="*.done"))
    film = Film(listing(file("a.done", 1, 100)), rules)
    assert not film.whole(1, listing(file("a.done", 1, 100)))
    assert Film(listing(file("a"))).whole(0.1, listing(file("a")))


def test_too_many_files_are_never_whole() -> None:
    """A look that was cut short says nothing."""
    assert not Film().whole(100, Listing(excess=True))


NAMES = st.sampled_from(["a.pt", "b/c.bin", "train.log", "a.pt.tmp"])
CHANGES = st.lists(
    st.tuples(
        st.floats(0.05, 9.0),
        st.dictionaries(NAMES, st.tuples(st.integers(0, 3), st.integers(1, 2)), max_size=4),
        st.sets(NAMES, max_size=2),
    ),
    min_size=1,
    max_size=40,
)


@given(CHANGES)
def test_whatever_happens_a_whole_look_was_quiet_closed_and_finished(
    changes: list[tuple[float, dict[str, tuple[int, int]], set[str]]],
) -> None:
    """Held against the plain definition, over the whole history."""
    film, now = Film(), 0.0
    history: list[tuple[float, Listing, set[str]]] = []
    for pause, files, writing in changes:
        now += pause
        seen = listing(*(file(path, size, size, inode) for path, (size, inode) in files.items()))
        history.append((now, seen, writing))
        verdict = film.look(now, seen, frozenset(writing))
        if isinstance(verdict, Waiting):
            continue
        same = [at for at, then, _ in history if then.files != seen.files]
        steady = {path for path in seen.files if not RULES.growing.fits(path)}
        for at, then, _ in history:
            if now - at < QUIET_S:
                for path in steady:
                    assert then.files.get(path) == seen.files[path], (now, at, path, same)
        for path in writing & steady:
            since = max((at for at, then, _ in history if then.files.get(path) != seen.files[path]), default=0.0)
            assert now - since > 12 * QUIET_S - 1e-9
        assert not any(at > now - QUIET_S and path not in then.files for at, then, _ in history for path in steady)
        assert set(verdict.listing.files) == set(seen.files)


@pytest.mark.parametrize(
    ("paths", "step"),
    [
        (["checkpoint-500/model.bin", "checkpoint-400/model.bin"], 500),
        (["epoch=3-step=120.ckpt", "last.ckpt"], 120),
        (["step_000100.pt"], 100),
        (["global_step200/mp_rank_00_model_states.pt", "latest"], 200),
        (["iter_0000400/model.pt"], 400),
        (["ckpt.300"], 300),
        (["model-7b.pt", "resnet50.pt"], None),
        (["epoch_7.pt"], 7),
        (["epoch=9.ckpt", "step=3.ckpt"], 3),
        (["mistep-9.pt", "stepwise.pt"], None),
        ([], None),
    ],
)
def test_the_step_is_what_the_names_say(paths: list[str], step: int | None) -> None:
    """As the usual frameworks write them."""
    assert step_of(listing(*(file(path) for path in paths))) == step


def test_the_newest_file_tells_the_step_and_the_number_never_goes_back() -> None:
    """An old file with a large number is another run's; a run that starts over keeps counting."""
    seen = listing(file("checkpoint-9000/a", mtime_s=1), file("checkpoint-100/a", mtime_s=2))
    assert step_of(seen) == 100
    assert numbered(seen, 40) == 100
    assert numbered(seen, 250) == 250
    bare = listing(file("model.pt"))
    assert [numbered(bare, last) for last in (None, 0, 7)] == [0, 1, 8]


def test_a_key_knows_links() -> None:
    """`latest` may be all that changed."""
    one = listing(file("a"), links=(Link("latest", "a"),))
    assert key_of(one, RULES) != key_of(replace(one, links={"latest": Link("latest", "b")}), RULES)
