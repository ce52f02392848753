"""`python -m spotrun.agent`: one attempt of a job, on the instance. Its exit code tells only how the agent itself
fared: 0 for an exit record written, 1 for none, 2 for an environment it cannot work with."""

from __future__ import annotations

import os
import sys

from spotrun.agent.bell import Bell
from spotrun.agent.config import read_environment
from spotrun.agent.supervisor import Supervisor
from spotrun.errors import SpecError, StoreError
from spotrun.store import BlobStore, Patience, RetryingStore, open_store

__all__ = ["main"]

# Enough for a request that was shed. More would hold up the next look at the lease; the next beat tries again anyway.
_PATIENCE = Patience(total_s=1.0, first_s=0.1, longest_s=0.5)


def main() -> int:
    """Runs the attempt that the environment describes; gives the exit code."""
    try:
        config = read_environment(os.environ)
    except SpecError as err:
        sys.stderr.write("".join(f"spotrun agent: {problem}\n" for problem in err.problems))
        return 2
    try:
        options = config.spec.checkpoint.options.given() if config.spec.checkpoint else {}
        store = _impatient(open_store(config.place_uri, options or None))
    except (SpecError, StoreError) as err:
        sys.stderr.write(f"spotrun agent: {config.checkpoint_uri} cannot be used as a store: {err}\n")
        return 2
    bell = Bell()
    supervisor = Supervisor(config, store=store, clock=config.clock(), bell=bell)
    bell.listen(supervisor.notices.signalled)
    return 0 if supervisor.run() else 1


def _impatient(store: BlobStore) -> BlobStore:
    return RetryingStore(store.inner, patience=_PATIENCE) if isinstance(store, RetryingStore) else store


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not sys.exit: a store's thread that hangs would keep the machine, and its bill, alive
