"""Tests in a real AWS account. They cost money, so that nothing here is even looked at unless a bucket is named for it."""

from __future__ import annotations

import os

BUCKET = "SPOTRUN_LIVE_BUCKET"

collect_ignore_glob = [] if os.environ.get(BUCKET) else ["test_*.py"]
