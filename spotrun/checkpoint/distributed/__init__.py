"""Several processes that train together save one checkpoint and resume from it, on as many or on another number.

    world       how the processes find each other
    board       short messages between them, as JSON, and signs of life
    gang        one process's part in all of this; what `attach` asks for
    entry       one claims and reads the log, all restore the same commit
    reshare     a process's own state, also out of what another number of processes saved
    bucket      the order in which DistributedDataParallel adds gradients up
    consensus   what all of them do at a boundary
    share       which process writes what
    document    the documents of all as one
    committer   from the parts of all to one commit
    quiet       what all but the first tell

Nothing here runs on the training's own process group, nothing is pickled, and no wait is without an end. The first
process alone touches the log, so the lineage knows one writer, however many processes train.
"""
