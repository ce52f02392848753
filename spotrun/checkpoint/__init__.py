"""The library inside the training process: `attach` restores the last commit and gives the loop its `Run`.

Between two steps the whole state is copied to host memory; a background thread writes it while the training goes on.

    attachment  reads the settings, claims the lineage, restores, and puts a `Run` together
    run         epochs, batches, steps: the face; it knows the position
    keeper      what happens between two steps: orders, saves, their outcomes
    order       signals and requests: what the outside wants
    state       model, optimizer, gradient, randomness: what is captured, and how it is loaded: all or nothing
    source      what is iterated over, and how it can be continued; feed, mapped, sampler: one pass over it
    position    how far the run has come
    tree        a state as a JSON document and named tensors; tensor, pack: as blobs, each a safetensors file
    copying     the snapshot's copy behind the next step
    saver       the background threads; commit: from what they wrote to a commit
    restore     the way back: the newest commit that is whole; stored: tensors that are not read yet, and where they go;
                reading, scratch: blobs straight into the memory of tensors
    report      progress.json, metrics.jsonl, lines for the user
"""

from spotrun.checkpoint.attachment import attach
from spotrun.checkpoint.run import Run

__all__ = ["Run", "attach"]
