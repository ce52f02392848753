"""The agent: on the instance, it runs the user's command and tells the controller how it fares.

    python -m spotrun.agent        everything it needs comes in its environment, see `spotrun.agent.config`

Who does what, each in a thread of its own so that none waits for another:

    main thread    `supervisor`  starts the command, passes notices on, stops it when asked or when the lease runs out
    reader         `command`     the command's output -> `log`
    courier        `courier`     heartbeat, log and metrics -> store; lease and stop <- store
    watcher        `notice`      asks the instance metadata service for an interruption notice
    inputs         `input`       fetches inputs before the start
    outputs        `output`      uploads outputs after the end

Rules. The main thread never touches the store, so a notice reaches the training whatever the store does. A failing
store never ends the training; only a lease that nobody renews does. Whatever happens, the agent ends: every wait
has a bound. `exit.json` is the last thing written and makes the attempt's outcome visible.
"""

from spotrun.agent.config import AgentConfig, Timing, read_environment
from spotrun.agent.supervisor import Supervisor

__all__ = ["AgentConfig", "Supervisor", "Timing", "read_environment"]
