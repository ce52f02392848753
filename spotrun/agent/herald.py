"""Passes notices and recommendations on to the command, each once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from spotrun.agent.command import Command
from spotrun.agent.courier import Courier
from spotrun.agent.folder import FolderKeeper
from spotrun.agent.mailbox import Mailbox
from spotrun.agent.notice import Notice, NoticeBoard
from spotrun.job.message import Ask, Request

__all__ = ["Herald"]

# A script that saved at a notice and ended is not at its end, whatever its exit code; but long after, it is its own.
_AFTER_NOTICE_S = 60.0


class Herald:
    """For the main thread alone.

    Attributes:
        told_until: an end of the command before this is due to our signal at a notice.
    """

    def __init__(
        self,
        *,
        notices: NoticeBoard,
        courier: Courier,
        mailbox: Mailbox,
        command: Command,
        folder: FolderKeeper | None,
        tell: Callable[[str], None],
    ) -> None:
        self._notices = notices
        self._courier = courier
        self._mailbox = mailbox
        self._command = command
        self._folder = folder
        self._tell = tell
        self.told_until: datetime | None = None

    def pass_on(self, now: datetime, *, stopping: bool) -> None:
        """Passes on what has come since the last time; to a command that is stopping, nothing: it is saving already."""
        if self._notices.take_recommendation():
            self._pass_on_recommendation(now, stopping=stopping)
        notice = self._notices.take(now)
        if notice is None:
            return
        self._courier.beat_now()
        if stopping:
            return
        if self._folder is not None:
            self._tell_of_folder(self._folder, notice)
            return
        # A save is asked for, not an end, which SIGTERM would be without a handler, and to a launcher of ranks. A
        # deadline that became exact is no new notice: the training finds it in the request.
        signals = notice.first and self._command.hears_sigterm()
        if problem := self._mailbox.ask(Request(ask=Ask.SAVE, deadline=notice.deadline)):
            # A signal without a request means: save and end. That loses less than a training that never hears of it.
            self._tell(f"{problem}: the training is asked to save by the signal alone, and ends with it")
        if signals:
            self._command.terminate()
            self.told_until = _end_of_answer(notice)
        self._tell(f"notice: this machine may be gone at {notice.deadline.isoformat(timespec='seconds')}")

    def _pass_on_recommendation(self, now: datetime, *, stopping: bool) -> None:
        """Has a training that has attached save once; a script without the library has no way to be asked for just that."""
        self._courier.recommended_at = now
        self._courier.beat_now()
        if stopping or self._folder is not None:
            return
        if self._notices.deadline is None:
            problem = self._mailbox.ask(Request(ask=Ask.SAVE))
            if problem:
                self._tell(f"{problem}: the training was not asked to save")
        self._tell("rebalance recommendation: an interruption of this machine has become likely; asked for a save")

    def _tell_of_folder(self, folder: FolderKeeper, notice: Notice) -> None:
        """Has the script save, if it listens, and the folder committed as soon as it is whole."""
        folder.notice(notice.deadline)
        when = notice.deadline.isoformat(timespec="seconds")
        if not notice.first:
            self._tell(f"notice: this machine may be gone at {when}")
            return
        name = folder.signal.name
        if self._command.tell(folder.signal):
            self.told_until = _end_of_answer(notice)
            self._tell(f"notice: this machine may be gone at {when}; sent {name} to the command")
        else:
            self._tell(
                f"notice: this machine may be gone at {when}; the command has no handler for {name}, so nothing was sent: "
                "what it writes to its folder until then is committed"
            )


def _end_of_answer(notice: Notice) -> datetime:
    """Until when the end of a command that was told of this notice is due to that."""
    return notice.deadline + timedelta(seconds=_AFTER_NOTICE_S)
