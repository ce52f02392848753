"""The job file: what it may say, and the sentence for each way to get it wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from spotrun.errors import SpecError
from spotrun.job import (
    Best,
    Code,
    Ec2,
    Folder,
    GeneratorMarket,
    JobSpec,
    Keep,
    Limits,
    LocalMarket,
    OnShortage,
    Options,
    Resources,
    Signing,
    TraceMarket,
    json_schema,
    load_spec,
)

EXAMPLE = """
name: gpt-small
command: python training_scripts/gpt.py --steps 2000
resources: {accelerator: A10G:1, instance_types: [g5.xlarge, g6.xlarge], regions: [us-east-1, us-west-2], nodes: 1}
limits: {max_run: 6h, max_wait: 12h, on_shortage: on_demand, budget_usd: 40}
checkpoint: {uri: s3://my-bucket/runs, interval: auto, keep: {last: 3}}
inputs: {train: s3://my-bucket/data/}
tags: {team: nlp}
"""

UNIT = "write it with a unit, like 90s, 30m, 6h, 1h30m or 2d"
NAME = "use 1 to 63 letters, digits, '-' and '_', beginning with a letter or digit"

# Field, what is written, and the sentence after `field: `. `.` in the field nests it.
BAD: list[tuple[str, str, str]] = [
    ("name", "my job", f"'my job' is no name; {NAME}"),
    ("name", "-x", f"'-x' is no name; {NAME}"),
    ("name", "x" * 64, f"'{'x' * 56}... is no name; {NAME}"),
    ("local.market.without_notice", "nan", "must be a number, not 'nan'"),
    ("name", "", "must be text, not null; put it in quotes"),
    ("name", "[a]", 'must be text, not ["a"]; put it in quotes'),
    ("command", "", "must be text or a list of words, not null"),
    ("command", "''", "must name a program to run"),
    ("command", "[]", "must name a program to run"),
    ("command", "[python, [x]]", 'must be text or a list of words; ["x"] is no word'),
    ("command", "{a: b}", 'must be text or a list of words, not {"a": "b"}'),
    ("command", """python -c "x""", "'python -c \"x' cannot be split into words: no closing quotation"),
    ("resources", "A10G", "must be a mapping of names to values, not 'A10G'"),
    ("resources.accelerator", "A10G:none", "'A10G:none' is no accelerator; write its name and count, like A10G:1"),
    ("resources.accelerator", "A10G:0", "'A10G:0' is no accelerator; write its name and count, like A10G:1"),
    ("resources.instance_types", "g5.xlarge", "must be a list, not 'g5.xlarge'; write it in brackets, like [a, b]"),
    ("resources.instance_types", "[g5.xlarge, g5.xlarge]", "names g5.xlarge twice"),
    ("resources.instance_types.0", "[G5 xlarge]", "'G5 xlarge' is no instance type; write it like g5.xlarge"),
    ("resources.regions", "{us: east}", """must be a list, not {"us": "east"}; write it in brackets, like [a, b]"""),
    ("resources.regions.1", "[us-east-1, N. Virginia]", "'N. Virginia' is no region; write it like us-east-1"),
    ("resources.nodes", "0", "must be at least 1, not '0'"),
    ("resources.nodes", "two", "must be a whole number, or a range like 2..8, not 'two'"),
    ("resources.nodes", "1.5", "must be a whole number, or a range like 2..8, not '1.5'"),
    ("resources.nodes", "[2, 8]", 'must be a whole number, or a range like 2..8, not ["2", "8"]'),
    ("resources.nodes", "8..2", "'8..2' begins with more machines than it ends with; write 2..8"),
    ("resources.nodes", "0..3", "must begin with at least 1, not '0..3'"),
    ("resources.nodes", "1..1", "'1..1' is a single number; write 1"),
    ("resources.nodes", "a..b", "'a..b' is no range; write the fewest and the most machines, like 2..8"),
    ("resources.nodes", "2...8", "'2...8' is no range; write the fewest and the most machines, like 2..8"),
    ("resources.nodes", "2..", "'2..' is no range; write the fewest and the most machines, like 2..8"),
    ("resources.nodes", "2..8", "must be 1 with the local provider, not 2..8"),
    ("resources.nodes", "2", "must be 1 with the local provider, not 2"),
    ("limits", "[]", "must be a mapping of names to values, not []"),
    ("limits.max_run", "6", f"'6' is not a duration; {UNIT}"),
    ("limits.max_run", "0s", "must be 0.001s to 28d, not 0s"),
    ("limits.max_run", "29d", "must be 0.001s to 28d, not 29d"),
    ("limits.max_wait", "soon", f"'soon' is not a duration; {UNIT}"),
    ("limits.max_wait", "366d", "must be 0.001s to 365d, not 366d"),
    ("limits.on_shortage", "ondemand", "must be wait or on_demand, not 'ondemand'"),
    (
        "limits.policy",
        "thrifty",
        "must be widening_reserve, slack_reserve, uniform_progress, greedy or on_demand, not 'thrifty'",
    ),
    (
        "limits.policy",
        "greedy",
        (
            "greedy says when on-demand is bought, and on_shortage is wait, so it never is; set on_shortage: on_demand, or leave "
            "policy out"
        ),
    ),
    ("limits.budget_usd", "$40", "must be a number, not '$40'"),
    ("limits.budget_usd", "0", "must be more than 0, not '0'"),
    ("limits.budget_usd", "-3", "must be more than 0, not '-3'"),
    ("limits.budget_usd", ".inf", "must be a number, not '.inf'"),
    ("limits.budget_usd", "Infinity", "must be a number, not 'Infinity'"),
    ("limits.budget_usd", "NaN", "must be a number, not 'NaN'"),
    ("limits.max_restarts", "-1", "must be at least 0, not '-1'"),
    ("limits.max_restarts", "1001", "must be at most 1000, not '1001'"),
    ("limits.stall_timeout", "0m", "must be 0.001s to 28d, not 0s"),
    ("checkpoint", "s3://bucket/runs", "must be a mapping of names to values, not 's3://bucket/runs'"),
    ("checkpoint.uri", "", "must be text, not null; put it in quotes"),
    ("checkpoint.uri", "''", "must not be empty"),
    (
        "checkpoint.uri",
        "runs",
        "'runs' is neither a URL like s3://bucket/runs nor a path that begins with /, ~/, ./ or ../",
    ),
    ("checkpoint.uri", "s3://", "'s3://' names no place below s3://"),
    ("checkpoint.uri", "file://runs", "'file://runs' names a file on another machine; write file:///absolute/path"),
    ("checkpoint.uri", "s3://b/../x", "'s3://b/../x' must not contain '?', '#' or '..'"),
    (
        "checkpoint.uri",
        "s3://key:hunter2@bucket/runs",
        "holds credentials, which the job's journal would keep; give them through the environment instead",
    ),
    ("checkpoint.interval", "often", "'often' is neither 'auto' nor a duration like 10m"),
    ("checkpoint.interval", "10", "'10' is neither 'auto' nor a duration like 10m"),
    ("checkpoint.interval", "0s", "must be 'auto' or 0.001s to 7d, not 0s"),
    ("checkpoint.keep", "3", "must be a mapping of names to values, not '3'"),
    ("checkpoint.keep.last", "0", "must be at least 1, not '0'"),
    ("checkpoint.keep.every_steps", "0", "must be at least 1, not '0'"),
    ("checkpoint.keep.every", "6", "'6' is not a duration; write it with a unit, like 90s, 30m, 6h, 1h30m or 2d"),
    ("checkpoint.keep.best", "loss", "must be a mapping of names to values, not 'loss'"),
    ("checkpoint.keep.best.metric", "''", "must not be empty"),
    ("checkpoint.keep.best.mode", "least", "must be min or max, not 'least'"),
    ("checkpoint.keep.best.count", "0", "must be at least 1, not '0'"),
    ("checkpoint.keep.tagged", "3", "must be all, none or a list of tags, not '3'"),
    ("checkpoint.options", "3", "must be a mapping of names to values, not '3'"),
    ("checkpoint.options.endpoint", "ftp://x", "must be an http or https URL of a host, without user or password"),
    ("checkpoint.options.region", "''", "must not be empty"),
    ("checkpoint.options.profile", "''", "must not be empty"),
    ("checkpoint.options.sse", "rot13", "must be AES256, aws:kms or aws:kms:dsse, not 'rot13'"),
    ("checkpoint.options.kms_key", "alias/k", "needs sse: aws:kms"),
    ("checkpoint.options.requester_pays", "maybe", "must be true or false, not 'maybe'"),
    ("checkpoint.options.connections", "65", "must be at most 64, not '65'"),
    ("checkpoint.options.secret_key", "x", "secrets are stored nowhere; use a profile, or the machine's role"),
    ("checkpoint.strict", "maybe", "must be true or false, not 'maybe'"),
    ("checkpoint.signing", "{}", "needs exactly one of key_env, key_file and kms, not none"),
    (
        "checkpoint.signing",
        "{key_env: A, kms: b}",
        "needs exactly one of key_env, key_file and kms, not key_env and kms",
    ),
    ("checkpoint.signing.key_env", "A B", "'A B' is no name of a variable; use letters, digits and '_'"),
    ("checkpoint.signing.key_file", "''", "must not be empty"),
    ("checkpoint.signing.kms", "''", "must not be empty"),
    ("checkpoint.folder", "[out]", 'must be a mapping of names to values, not ["out"]'),
    (
        "checkpoint.folder.path",
        "../out",
        "'../out' is not inside of the directory of submission; write a relative path like out/",
    ),
    (
        "checkpoint.folder.path",
        "./",
        "is the whole directory of submission; give checkpoints a folder of their own, like out/",
    ),
    (
        "checkpoint.folder.path",
        ".spotrun/x",
        ".spotrun is spotrun's own folder; give checkpoints another one, like out/",
    ),
    ("checkpoint.folder.done", "''", "must not be empty"),
    ("checkpoint.folder.ignore", "{a: b}", 'must be a pattern or a list of patterns, not {"a": "b"}'),
    ("checkpoint.folder.growing", "[/]", "'/' is no pattern; write it like *.log or logs/*"),
    ("checkpoint.folder.quiet", "5", "'5' is not a duration; write it with a unit, like 90s, 30m, 6h, 1h30m or 2d"),
    ("checkpoint.folder.signal", "SIGKILL", "must be SIGTERM, SIGINT, SIGUSR1 or SIGUSR2, not 'SIGKILL'"),
    ("inputs", "s3://bucket/data", "must be a mapping of names to values, not 's3://bucket/data'"),
    ("inputs", "{a b: x}", "'a b' is no name of an input; use letters, digits, '_', '-' and '.'"),
    ("inputs", "{a-b: x, a_b: y}", "a-b and a_b would both be SPOTRUN_INPUT_A_B"),
    ("inputs.train", "{train: }", "must be text, not null; put it in quotes"),
    ("tags", "[nlp]", 'must be a mapping of names to values, not ["nlp"]'),
    ("tags", "{aws:x: y}", "'aws:x' begins with a prefix that is not the user's: aws: or spotrun:"),
    ("tags", "{a*: y}", "'a*' is no tag; use 1 to 128 letters, digits, spaces and _ . : / = + - @"),
    ("tags", "{a: y*}", "a is 'y*'; a tag's value has at most 256 letters, digits, spaces and _ . : / = + - @"),
    ("tags", "{" + ", ".join(f"t{n}: x" for n in range(41)) + "}", "41 tags are more than 40"),
    ("environment", "{1X: y}", "'1X' is no name of a variable; use letters, digits and '_'"),
    ("environment", "{SPOTRUN_JOB_ID: y}", "SPOTRUN_JOB_ID is set by spotrun itself"),
    ("environment", "hunter2", "must be a mapping of names to values, not that"),
    ("environment.TOKEN", "{TOKEN: [hunter2]}", "must be text; put it in quotes"),
    ("setup", "make", "must be a list of commands, not 'make'; write it in brackets, like [a, b]"),
    ("setup", "[[]]", "must name a program to run"),
    ("cache", "~/.cache", "must be a list of folders, not '~/.cache'"),
    (
        "cache",
        "[/etc]",
        "'/etc' is neither below the working directory nor below ~/; write it like ~/.cache/pip",
    ),
    ("cache", "[~/]", "'~/' is no folder of its own; write it like ~/.cache/pip"),
    ("cache", "[a, ./a]", "names a twice"),
    ("code", "main", "must be a mapping of names to values, not 'main'"),
    ("code.git", "ext::sh", "'ext::sh' is no repository; write its https:// or ssh:// URL"),
    (
        "code.git",
        "https://me:hunter2@h/r",
        "holds credentials, which the job's journal would keep; let the machine read the repository without",
    ),
    (
        "code.commit",
        "main",
        (
            "'main' is no commit; write all of its 40 hexadecimal digits, as `git rev-parse HEAD` prints them: a branch "
            "would move between two attempts"
        ),
    ),
    ("code.max_mb", "0", "must be at least 1, not '0'"),
    ("provider", "ec3", "must be local or ec2, not 'ec3'"),
    ("ec2", "fast", "must be a mapping of names to values, not 'fast'"),
    (
        "ec2.image",
        "ubuntu",
        (
            "'ubuntu' is no image; write an id like ami-0abc1234, ssm:/path of a parameter, or name:pattern, of another "
            "owner's images name:pattern@owner"
        ),
    ),
    ("ec2.disk", "4", "must be at least 8, not '4'"),
    ("ec2.kms_key", "a b", "'a b' is no KMS key; write its id, ARN or alias/name"),
    ("ec2.subnets.0", "[vpc-1]", "'vpc-1' is no subnet; write it like subnet-0abc1234"),
    ("ec2.subnets", "[subnet-0abc1234, subnet-0abc1234]", "names subnet-0abc1234 twice"),
    ("ec2.security_groups.0", "[web]", "'web' is no security group; write it like sg-0abc1234"),
    ("ec2.security_groups", "{}", "must be a list, not {}; write it in brackets, like [a, b]"),
    ("ec2.instance_profile", "a b", "'a b' is no name of an instance profile"),
    ("ec2.key_name", "''", "'' is no name of a key pair"),
    ("ec2.docker", "-v", "'-v' is no container image; write it like repository/name:tag"),
    ("ec2.rebalance", "flee", "must be ignore, save or move, not 'flee'"),
    ("ec2.lease", "5s", "must be 10s to 7d, not 5s"),
    ("ec2.queue", "a/b", "'a/b' is no name of a queue"),
    ("local", "fast", "must be a mapping of names to values, not 'fast'"),
    ("local.time_scale", "0", "must be more than 0, not '0'"),
    ("local.time_scale", "-1", "must be more than 0, not '-1'"),
    ("local.time_scale", "nan", "must be a number, not 'nan'"),
    ("local.time_scale", "fast", "must be a number, not 'fast'"),
    ("local.market", "calm", "must be a mapping of names to values, not 'calm'"),
    ("local.market.seed", "-1", "must be at least 0, not '-1'"),
    ("local.market.seed", "0x1f", "must be a whole number, not '0x1f'"),
    ("local.market.zones", "0", "must be at least 1, not '0'"),
    ("local.market.zones", "27", "must be at most 26, not '27'"),
    ("local.market.mean_up", "0s", "must be 0.001s to 365d, not 0s"),
    ("local.market.mean_down", "1y", f"'1y' is not a duration; {UNIT}"),
    ("local.market.without_notice", "1.1", "must be at most 1, not '1.1'"),
    ("local.market.without_notice", "-0.1", "must be at least 0, not '-0.1'"),
    ("local.market.availability", "{}", "must name at least one zone and its trace file"),
    ("local.market.availability", "trace.csv", "must be a mapping of names to values, not 'trace.csv'"),
    ("local.market.availability", "{US EAST: a.csv}", "'US EAST' is no zone id; write it like use1-az4"),
    ("local.market.availability.use1-az4", "{use1-az4: ''}", "must not be empty"),
    ("local.market.prices", "''", "must not be empty"),
    ("local.notice", "25h", "must be 0s to 24h, not 25h"),
    ("local.launch_delay", "-5s", f"'-5s' is not a duration; {UNIT}"),
]


def with_field(field: str, text: str) -> str:
    """A job file that is good but for this field."""
    path = field.split(".")
    while path[-1].isdigit() or path[-1] in ("train", "TOKEN", "use1-az4"):  # of a list, or of free names
        path.pop()
    data: dict[str, Any] = {"name": "a", "command": "python a.py", "checkpoint": {"uri": "s3://b/runs"}}
    if path[-2:-1] == ["best"]:
        data["checkpoint"]["keep"] = {"best": {"metric": "loss"}}
    if path[-2:-1] == ["folder"]:
        data["checkpoint"]["folder"] = {"path": "out"}
    if path[-1] == "prices":
        data["local"] = {"market": {"availability": {"use1-az4": "a.csv"}}}
    where = data
    for part in path[:-1]:
        where = where.setdefault(part, {})
    where.pop(path[-1], None)
    lines = yaml.safe_dump(data, default_flow_style=False).splitlines() if data else []
    return nest(lines, path, text)


def nest(lines: list[str], path: list[str], text: str) -> str:
    """The lines with the field's own text, unquoted, at its place."""
    for depth in range(len(path) - 1, 0, -1):
        head = "  " * (depth - 1) + path[depth - 1] + ":"
        for index, line in enumerate(lines):
            if line.startswith(head):
                lines[index] = head
                lines.insert(index + 1, "  " * depth + f"{path[depth]}: {text}")
                return "\n".join(lines)
    return "\n".join([*lines, f"{path[0]}: {text}"])


@pytest.mark.parametrize(("field", "text", "sentence"), BAD, ids=[f"{field} = {text[:20]}" for field, text, _ in BAD])
def test_a_bad_value_is_told_in_one_sentence(field: str, text: str, sentence: str) -> None:
    """The field's path, the value, and what is allowed."""
    with pytest.raises(SpecError) as error:
        load_spec(with_field(field, text))
    assert error.value.problems == (f"{field}: {sentence}",)


def fields(model: type[Any] = JobSpec, prefix: str = "") -> Iterator[str]:
    """The paths of all fields of the job file."""
    inner = {
        "resources": (Resources,),
        "limits": (Limits,),
        "checkpoint": (JobSpec.model_fields["checkpoint"].annotation.__args__[0],),
        "checkpoint.keep": (Keep,),
        "checkpoint.keep.best": (Best,),
        "checkpoint.signing": (Signing,),
        "checkpoint.options": (Options,),
        "checkpoint.folder": (Folder,),
        "code": (Code,),
        "ec2": (Ec2,),
        "local": (LocalMarket,),
        "local.market": (GeneratorMarket, TraceMarket),
    }
    for name in model.model_fields:
        yield prefix + name
        for section in inner.get(prefix + name, ()):
            yield from fields(section, f"{prefix}{name}.")


def test_every_field_has_its_bad_values() -> None:
    """A new field comes with its sentences."""
    assert set(fields()) == {field for field, _, _ in BAD} & set(fields())


CROSS: dict[str, tuple[str, str]] = {
    "less time to wait than to run": (
        "limits: {max_run: 6h, max_wait: 2h}\ncheckpoint: {uri: /runs}",
        "limits.max_wait: 2h is less than max_run 6h; it is the time for waiting and running together",
    ),
    "a long run that saves nothing": (
        "limits: {max_run: 61m}",
        (
            "checkpoint: is missing, and limits.max_run is 1h1m; a spot job that saves nothing starts over at each "
            "interruption and may never end: add checkpoint.uri, or set limits.max_run to at most 1h"
        ),
    ),
    "a repository without a commit": (
        "code: {git: 'https://h/r'}",
        "code.commit: is missing beside git: both together say what runs",
    ),
    "EC2 without a checkpoint": (
        "provider: ec2",
        (
            "checkpoint: is missing; an instance is lost with its disk, and its work must be somewhere else: add "
            "checkpoint.uri, like s3://bucket/runs"
        ),
    ),
    "EC2 with checkpoints on this computer": (
        "provider: ec2\ncheckpoint: {uri: ./runs}",
        (
            "checkpoint.uri: must be on s3:// with provider: ec2, not './runs': it is where this computer and the "
            "instances meet"
        ),
    ),
    "EC2 with an input on this computer": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs}\ninputs: {data: ~/data}",
        (
            "inputs.data: '~/data' is on this computer, which an instance does not see; give a URL like "
            "s3://bucket/data, or a path inside of the working directory"
        ),
    ),
    "EC2 with a profile of this computer": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs, options: {profile: lab}}",
        (
            "checkpoint.options.profile: is a profile of this computer, and instances have the role of "
            "ec2.instance_profile; set AWS_PROFILE here instead"
        ),
    ),
    "EC2 with a key of this computer": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs, signing: {key_env: KEY}}",
        "checkpoint.signing: must be by a kms key with provider: ec2: other keys are not on the instance",
    ),
    "EC2 with very many machines": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs}\nresources: {nodes: 65}",
        "resources.nodes: must be at most 64, not 65",
    ),
    "EC2 with up to very many machines": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs}\nresources: {nodes: 2..65}",
        "resources.nodes: must be at most 64, not 2..65",
    ),
    "a number of machines that changes, and a resume that must not": (
        "provider: ec2\ncheckpoint: {uri: s3://b/runs, strict: true}\nresources: {nodes: 2..8}",
        (
            "checkpoint.strict: refuses to go on on another number of machines, which resources.nodes: 2..8 may bring; leave "
            "one of them out"
        ),
    ),
    "an unknown name like a known one": ("limits: {max_runn: 2h}", "limits.max_runn: unknown; did you mean max_run?"),
    "an unknown name like none": (
        "checkpoint: {uri: /runs, x: 1}",
        "checkpoint.x: unknown; known here are uri, interval, keep, signing, strict, options, folder",
    ),
    "an unknown name at the top": ("limit: {}", "limit: unknown; did you mean limits?"),
    "an unknown name of a market": (
        "local: {market: {meanup: 1h}}",
        "local.market.meanup: unknown; did you mean mean_up?",
    ),
    "prices without availability": ("local: {market: {prices: p.json}}", "local.market.availability: is missing"),
    "a checkpoint without a place": ("checkpoint: {interval: auto}", "checkpoint.uri: is missing"),
}


@pytest.mark.parametrize(("text", "sentence"), CROSS.values(), ids=list(CROSS))
def test_what_does_not_go_together_is_told(text: str, sentence: str) -> None:
    """Each value is good, together they are not; or a name is."""
    with pytest.raises(SpecError) as error:
        load_spec(f"name: a\ncommand: x\n{text}")
    assert error.value.problems == (sentence,)


def test_all_problems_are_told_at_once() -> None:
    """Nobody wants to mend a file one error at a time."""
    with pytest.raises(SpecError) as error:
        load_spec("command: ''\nlimits: {max_run: 6}\ntag: {}")
    assert [problem.split(":")[0] for problem in error.value.problems] == ["name", "command", "limits.max_run", "tag"]
    assert str(error.value).count("\n") == 3


NOT_YAML: dict[str, tuple[str | bytes, str]] = {
    "a name given twice": ("name: a\nname: b", "job file: line 2: 'name' is given twice"),
    "a name given twice, deeper": (
        "limits:\n  max_run: 1h\n  max_run: 2h",
        "job file: line 3: 'max_run' is given twice",
    ),
    "an alias": ("a: &x b\nc: *x", "job file: line 2: an alias (*name) is not allowed; write the value again"),
    "a tag": (
        "a: !!python/name:os.system x",
        "job file: line 1: a tag (tag:yaml.org,2002:python/name:os.system) is not allowed",
    ),
    "a nest": ("[" * 30 + "]" * 30, "job file: line 1: nested more than 16 deep"),
    "a name that is no text": ("? [a]\n: b", "job file: line 1: a name must be text"),
    "a name that is nothing": ("~: b", "job file: line 1: a name must be text"),
    "a torn file": ("name: [a", "job file: line 1: expected ',' or ']', but got '<stream end>'"),
    "two documents": (
        "name: a\n---\nname: b",
        "job file: line 2: expected a single document in the stream, but found another document",
    ),
    "nothing": (
        "",
        "job file: must be a mapping with at least name and command, not null; to read a file, pass a Path",
    ),
    "a path": (
        "job.yaml",
        "job file: must be a mapping with at least name and command, not 'job.yaml'; to read a file, pass a Path",
    ),
    "a novel": ("#" * 300_000, "job file: 300000 bytes are more than 262144; is it the right file?"),
}


@pytest.mark.parametrize(("text", "sentence"), NOT_YAML.values(), ids=list(NOT_YAML))
def test_what_is_no_job_file_is_told_with_its_line(text: str, sentence: str) -> None:
    """YAML's power has hidden many mistakes; a job file needs little of it."""
    with pytest.raises(SpecError) as error:
        load_spec(text)
    assert error.value.problems == (sentence,)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Missing, or not text."""
    with pytest.raises(SpecError, match=r"cannot read .*nope\.yaml: No such file or directory"):
        load_spec(tmp_path / "nope.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match=r"is not UTF-8 text \(byte 6\)"):
        load_spec(tmp_path / "binary.yaml")


def test_the_example_of_the_documents_loads_from_text_file_and_mapping(tmp_path: Path) -> None:
    """One job, three doors, and its JSON form as the fourth."""
    (tmp_path / "job.yaml").write_text(EXAMPLE)
    spec = load_spec(EXAMPLE)
    assert spec == load_spec(tmp_path / "job.yaml") == load_spec(yaml.safe_load(EXAMPLE))
    assert spec == JobSpec.model_validate_json(json.dumps(spec.to_json()))
    assert spec.limits == Limits(max_run="6h", max_wait="12h", on_shortage="on_demand", budget_usd=40)
    assert (spec.limits.max_run, spec.limits.budget_usd) == (timedelta(hours=6), Decimal(40))
    assert spec.limits.on_shortage is OnShortage.ON_DEMAND
    assert spec.resources.accelerator == "A10G:1"
    assert spec.resources.instance_types == ("g5.xlarge", "g6.xlarge")
    assert spec.inputs == {"train": "s3://my-bucket/data/"}


def test_text_stays_the_text_that_was_written() -> None:
    """YAML 1.1 would make of these an octal number, sixty-base numbers, truths, a date and nothing."""
    spec = load_spec(
        "name: 012\ncommand: [echo, no, 1e3, 22:22]\n"
        "tags: {no: off, version: 1.10, time: 22:22, day: 2026-01-01, count: 0x1F}\n"
    )
    assert spec.name == "012"
    assert spec.command == ("echo", "no", "1e3", "22:22")
    assert spec.tags == {
        "no": "off",
        "version": "1.10",
        "time": "22:22",
        "day": "2026-01-01",
        "count": "0x1F",
    }


DEFAULTS: dict[str, tuple[str, str, str]] = {
    "nothing given, something saved": ("checkpoint: {uri: /runs}", "24h", "24h"),
    "nothing given, nothing saved": ("", "1h", "1h"),
    "only max_wait, nothing saved": ("limits: {max_wait: 30h}", "1h", "30h"),
    "only a short max_wait": ("limits: {max_wait: 20m}", "20m", "20m"),
    "only max_wait, something saved": ("limits: {max_wait: 30h}\ncheckpoint: {uri: /runs}", "24h", "30h"),
    "only a shorter max_wait, something saved": ("limits: {max_wait: 5h}\ncheckpoint: {uri: /runs}", "5h", "5h"),
    "only max_run": ("limits: {max_run: 40m}", "40m", "40m"),
    "a name without a value": ("limits: {max_run: 40m, max_wait: }", "40m", "40m"),
}


@pytest.mark.parametrize(("text", "max_run", "max_wait"), DEFAULTS.values(), ids=list(DEFAULTS))
def test_the_limits_on_time_have_sensible_defaults(text: str, max_run: str, max_wait: str) -> None:
    """Neither ever contradicts the other, and a JSON round trip keeps them."""
    spec = load_spec(f"name: a\ncommand: x\n{text}")
    expected = Limits(max_run=max_run, max_wait=max_wait)
    assert (spec.limits.max_run, spec.limits.max_wait) == (expected.max_run, expected.max_wait)
    assert JobSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize(
    "uri", ["s3://bucket/runs", "file:///runs", "memory://", "memory://x", "/runs", "~/runs", "gs://b/x", "s3://bucket"]
)
def test_places_that_a_store_can_be_at(uri: str) -> None:
    """URLs, absolute paths, and the home directory."""
    spec = JobSpec(name="a", command="x", checkpoint={"uri": uri})
    assert spec.checkpoint is not None
    assert spec.checkpoint.uri == uri


def test_a_spec_made_in_python_fails_in_the_same_sentences() -> None:
    """Whole or in parts, by keyword, with Python's own types."""
    with pytest.raises(SpecError, match=r"^limits\.max_run: 6 is not a duration; write it with a unit"):
        JobSpec(name="a", command="x", limits={"max_run": 6})
    with pytest.raises(SpecError, match=r"^limits\.max_wait: 2h is less than max_run 6h"):
        Limits(max_run=timedelta(hours=6), max_wait=timedelta(hours=2))
    with pytest.raises(SpecError, match=r"^checkpoint\.keep\.last: must be at least 1, not 0$"):
        Keep(last=0)
    with pytest.raises(SpecError, match=r"^resources\.nodes: must be a number, not true$"):
        Resources(nodes=True)
    with pytest.raises(SpecError, match=r"^tags\.a: must be text, not 5; put it in quotes$"):
        JobSpec(name="a", command="x", tags={"a": 5})
    with pytest.raises(SpecError, match=r"^local\.market\.zoness: unknown; did you mean zones\?$"):
        LocalMarket(market={"zoness": 3})
    assert JobSpec(name="a", command=["x", "y"], limits=Limits(max_wait=None)).limits.max_wait == timedelta(hours=1)


@pytest.mark.parametrize("word", ["true", "false"])
def test_true_and_false_are_read_from_a_job_file(word: str) -> None:
    """A file's text is not taken for a truth of Python's, so these two words are."""
    spec = load_spec(
        f"name: a\ncommand: x\ncheckpoint: {{uri: s3://b/runs, strict: {word}, options: {{requester_pays: {word}}}}}"
    )
    assert spec.checkpoint is not None
    assert (spec.checkpoint.strict, spec.checkpoint.options.requester_pays) == (word == "true", word == "true")


@pytest.mark.parametrize(("text", "least", "most"), [("4", 4, 4), ("2..8", 2, 8), ("1..2", 1, 2), ("'3'", 3, 3)])
def test_machines_are_a_number_or_a_range(text: str, least: int, most: int) -> None:
    """Read from a file, from Python and from the journal, it is the same."""
    spec = load_spec(f"{EXAMPLE.replace('nodes: 1', f'nodes: {text}')}provider: ec2\n")
    nodes = spec.resources.nodes
    assert (nodes.least, nodes.most, nodes.is_elastic) == (least, most, least < most)
    assert JobSpec.model_validate(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.to_json()["resources"]["nodes"] == (f"{least}..{most}" if nodes.is_elastic else least)
    assert Resources(nodes=nodes.to_json()).nodes == nodes


def test_secrets_in_the_environment_are_never_shown() -> None:
    """An error is printed, logged and pasted into chats."""
    for environment in (
        {"TOKEN": ["hunter2"]},
        {"SPOTRUN_X": "hunter2"},
        "hunter2",
        ["hunter2"],
        {"TOKEN": "hunter2\0"},
    ):
        with pytest.raises(SpecError) as error:
            load_spec({"name": "a", "command": "x", "environment": environment})
        assert "hunter2" not in str(error.value)


def test_the_schema_describes_every_field() -> None:
    """For completion and checks in an editor."""
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    properties = [(name, value) for section in sections for name, value in section.get("properties", {}).items()]
    described = {name: "description" in value or "$ref" in value for name, value in properties}
    assert all(described.values()), described
    assert {name.split(".")[-1] for name in fields()} == set(described)
    assert schema["required"] == ["name", "command"]
    limits = schema["$defs"]["Limits"]["properties"]
    assert (limits["max_run"]["default"], limits["max_restarts"]["minimum"]) == ("24h", 0)
    nodes = schema["$defs"]["Resources"]["properties"]["nodes"]
    assert (nodes["default"], [kind["type"] for kind in nodes["anyOf"]]) == (1, ["integer", "string"])
    json.dumps(schema)
