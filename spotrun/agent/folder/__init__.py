"""The folder contract: a script that cannot be changed writes and reads a folder, and the agent makes it survive.

    before the command     claim the lineage, read the newest whole commit, make the folder what it was    `restore`
    while it runs          look at the folder, find the moments at which it is whole, commit those         `keeper`
    after it               commit what it left, if it left it whole

A *generation* is the folder's content at one instant at which nobody is in the middle of writing it. Which instants
those are is decided by a pure function over successive listings (`generation`), because guessing it wrong is the one way
to commit a checkpoint that cannot be loaded. A generation is read file by file, and void if any of them changed between
the listing and the end of its reading (`upload`); so what is committed was there together.

Rules. What an attempt starts from is always a commit: the first one commits the folder as it finds it. The agent is the
lineage's only writer, with the log, blobs and manifests of every other checkpoint (`custody`). Nothing is removed from
the store because something was removed from the folder. What a restore finds beside the commit is moved aside, never
deleted. Nothing here runs in the main thread, and no failure of the store ends the training.
"""

from spotrun.agent.folder.keeper import FolderKeeper, FolderNews
from spotrun.agent.folder.place import FolderPlace, find_place

__all__ = ["FolderKeeper", "FolderNews", "FolderPlace", "find_place"]
