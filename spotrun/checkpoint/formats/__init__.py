"""Checkpoints in other forms: safetensors, `torch.save`, DCP directories, and the layout of Hugging Face models.

    safetensors   reading and writing such files, one or several with an index
    weights       which of a commit's tensors are weights, and optimizers in PyTorch's own form
    pickled       forms that others pickle: written plainly, read without ever running what is in them
    export        a commit written in one of the forms
    adopt         weights from elsewhere as the first commit of a run

Files from elsewhere are not trusted: names, sizes and places are checked before anything is allocated, no path in them
leads outside of the directory that was named, and nothing in them is executed.
"""

from spotrun.checkpoint.formats.adopt import adopt
from spotrun.checkpoint.formats.export import Form, export
from spotrun.checkpoint.formats.source import read_weights

__all__ = ["Form", "adopt", "export", "read_weights"]
