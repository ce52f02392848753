"""What a simulated machine inherits from the real one: an allow-list, so that no secret slips through by default."""

from __future__ import annotations

import os
import re

from spotrun.providers.local.process import HOST_TAG, INSTANCE_TAG
from spotrun.providers.local.state import Machine

__all__ = ["agent_environment", "host_environment"]

_INHERITED = re.compile(
    r"""
    PATH | HOME | USER | LOGNAME | SHELL | TERM | TZ | TMPDIR | LANG | LANGUAGE | LC_\w+ | XDG_\w+     # a login's own
    | PYTHON\w* | VIRTUAL_ENV | CONDA_\w+ | UV_\w+ | LD_LIBRARY_PATH | DYLD_\w+                        # which software
    | CUDA_\w+ | NVIDIA_\w+ | HIP_\w+ | ROCR_\w+ | NCCL_\w+ | GLOO_\w+                                 # which devices
    | OMP_\w+ | MKL_\w+ | OPENBLAS_\w+ | KMP_\w+ | CUBLAS_\w+ | PYTORCH_\w+ | TORCH_\w+ | TORCHINDUCTOR_\w+
    | HF_HOME | HF_HUB_OFFLINE | HF_DATASETS_\w+ | TRANSFORMERS_\w+ | TRITON_\w+ | MPLCONFIGDIR        # caches
    | SSL_CERT_FILE | SSL_CERT_DIR | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | (?i:https?_proxy|no_proxy|all_proxy)
    """,
    re.VERBOSE,
)
_AWS = re.compile(r"AWS_\w+")


def host_environment(instance_id: str, *, aws: bool, named: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment of a host, from this process's own; the only place where the local provider reads one.

    Args:
        instance_id: the machine's id.
        aws: whether the job reads or writes S3 and so needs the AWS variables.
        named: variables that the job file names.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if _INHERITED.fullmatch(name) or (aws and _AWS.fullmatch(name)) or name in named
    }
    if paths := environment.get("PYTHONPATH"):  # the host runs elsewhere
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)  # noqa: PTH100
    return environment | {HOST_TAG: instance_id}


def agent_environment(
    inherited: dict[str, str], machine: Machine, *, metadata_url: str, scratch: str
) -> dict[str, str]:
    """The environment of the agent: the host's, the request's over it, and the machine's own over both."""
    environment = {name: value for name, value in inherited.items() if name != HOST_TAG}
    return {
        **environment,
        **machine.environment,
        INSTANCE_TAG: machine.id,
        "SPOTRUN_IMDS": metadata_url,
        "SPOTRUN_SCRATCH": scratch,
    }
