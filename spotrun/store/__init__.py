"""Where checkpoints live: blobs, manifests and the log that decides, over any place that creates exclusively.

A job's place holds `blobs/<attempt>/<digest>` (tensor bytes), `manifests/<step>-<attempt>.json` (what a checkpoint
consists of) and `log/<number>.json` (claims and commits, in the one order that counts). A writer claims the run, reads
its commits, and from then on writes blobs, then a manifest, then a log entry, which makes the checkpoint visible. A
newer claim fences it. Nothing here knows torch; nothing committed is ever rewritten; every byte read is checked.

`docs/format.md` describes the bytes, `spotrun.store.protocol` the protocol and why it holds.
"""

from spotrun.store.blob import BlobStore
from spotrun.store.content import fill_blob, read_blob, read_manifest, verify, write_blob
from spotrun.store.file import FileStore
from spotrun.store.lineage import Lineage
from spotrun.store.location import open_store
from spotrun.store.log import ClaimEntry, CommitEntry, DamagedEntry, Entry, read_log
from spotrun.store.manifest import DTYPE_SIZES, BlobRef, Manifest, TensorRef
from spotrun.store.memory import MemoryStore
from spotrun.store.option import StoreOptions
from spotrun.store.region import Box, Copy, Piece, Stored, whole_box
from spotrun.store.retention import prune
from spotrun.store.retry import Patience, RetryingStore

__all__ = [
    "DTYPE_SIZES",
    "BlobRef",
    "BlobStore",
    "Box",
    "ClaimEntry",
    "CommitEntry",
    "Copy",
    "DamagedEntry",
    "Entry",
    "FileStore",
    "Lineage",
    "Manifest",
    "MemoryStore",
    "Patience",
    "Piece",
    "RetryingStore",
    "StoreOptions",
    "Stored",
    "TensorRef",
    "fill_blob",
    "open_store",
    "prune",
    "read_blob",
    "read_log",
    "read_manifest",
    "verify",
    "whole_box",
    "write_blob",
]
