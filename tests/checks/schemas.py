#!/usr/bin/env python3
"""usage: schemas.py DOCS GUESTMM RECORDING

Checks that the summary.json of each experiment, and what `info --json` and `trace info --json`
print, is what the schemas in DOCS say, and that the schemas notice what is missing, added or of
another type.
"""

import copy
import json
import subprocess
import sys

import jsonschema


def printed(guestmm, *arguments):
    return json.loads(subprocess.run([guestmm, *arguments], check=True, capture_output=True).stdout)


def validator_of(path):
    with open(path, encoding="utf-8") as file:
        validator = jsonschema.Draft202012Validator(json.load(file))
    validator.check_schema(validator.schema)
    return validator


def check(validator, good, wrongs):
    validator.validate(good)
    for wrong in wrongs:
        bad = copy.deepcopy(good)
        wrong(bad)
        assert not validator.is_valid(bad), bad


def main(docs, guestmm, recording):
    small = ["--guest-memory", "64MiB", "--vcpus", "1", "--duration", "1", "--rest", "1"]
    summary = validator_of(f"{docs}/summary.schema.json")
    for arguments in (
        ["density", "--scale", "0.02", "--policies", "off,linux", "--max-guests", "1", "--settle", "0"],
        ["compare", "--policies", "v12", "--workloads", f"burst,{recording}", *small],
        ["replay", recording, "--policies", "off,linux", "--truth"],
    ):
        line = [*arguments, "--json", "--quiet"]
        good = printed(guestmm, *line)
        wrongs = (
            lambda s: s.pop("run"),
            lambda s: s.update(more=1),
            lambda s: s.update(error=1),
            lambda s: s["rows"][0].update(reported_bytes="many", reports="many"),
            lambda s: s["config"].pop("policies"),
        )
        check(summary, good, wrongs)
        assert good["complete"] and good["run"]["command"][1:] == line, good["run"]

    wrongs = (lambda s: s.pop("events"), lambda s: s.update(more=1), lambda s: s["orders"][0].update(frees="many"))
    trace = printed(guestmm, "trace", "info", recording, "--json")
    check(validator_of(f"{docs}/trace-info.schema.json"), trace, wrongs)
    assert sum(order["frees"] for order in trace["orders"]) == trace["frees"], trace

    wrongs = (lambda s: s.pop("vmstat"), lambda s: s.update(more=1), lambda s: s["zones"][0].pop("free_pages"))
    info = printed(guestmm, "info", "--memory", "0-1G@0,1G-2G@1", "--cpus", "2", "--churn", "1000", "--json")
    check(validator_of(f"{docs}/info.schema.json"), info, wrongs)
    for zone in info["zones"]:
        in_blocks = sum(count << order for orders in zone["free_blocks"].values() for order, count in enumerate(orders))
        assert in_blocks == zone["free_pages"], zone


main(*sys.argv[1:])
