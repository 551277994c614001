#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""The reclaim study's command line: what it writes, what it refuses."""
import csv
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

COLUMNS = ("trace,arch,policy,limit,faults,refaults,leaf_refills,link_refills,live_zapped,directories_zapped,mapped_mean,"
           "mapped_sd,sawtooth,a_bit_reads,ns_per_reclaim")
program = sys.argv[1]
failed = []


def check(ok, what):
    print(("ok      " if ok else "FAILED  ") + what)
    if not ok:
        failed.append(what)


def run(*args):
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=250)


def refused(what, *args):
    r = run(*args)
    check(r.returncode == 2 and r.stderr.count("\n") == 1 and what in r.stderr,
          f"refused: {' '.join(map(str, args[-2:]))}: {r.stderr.strip()}")


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    trace = folder / "small.u64"
    draw = random.Random(1)
    words = []
    for _ in range(30000):
        space, region = draw.randrange(3), draw.randrange(1, 1 + draw.randrange(1, 60))
        kernel = (1 << 35) if draw.randrange(4) == 0 else 0
        words.append(kernel | region << 9 | draw.randrange(64) | space << 36)
    trace.write_bytes(struct.pack(f"<{len(words)}Q", *words))

    out = folder / "out"
    r = run("--trace", trace, "--limit", "24,64", "--policy", "all", "--audit", "--out", out)
    check(r.returncode == 0, "a study ends well: " + r.stderr.strip())
    lines = (out / "study.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    check(lines[0] == COLUMNS, "the columns are those promised")
    policies = {"fifo", "greedy-dual-frequency", "belady-table", "belady-cost", "lower-bound"}
    check({(r["policy"], r["limit"]) for r in rows} == {(p, l) for p in policies for l in ("24", "64")},
          "a row for each policy and limit")
    at = {(r["policy"], r["limit"]): int(r["refaults"]) for r in rows}
    for limit in ("24", "64"):
        bound, default, fifo = (at[p, limit] for p in ("lower-bound", "greedy-dual-frequency", "fifo"))
        check(bound <= at["belady-cost", limit] and bound <= default <= fifo, f"bound <= default <= FIFO at {limit}")
    check(len(json.loads((out / "study.json").read_text())) == len(rows), "the JSON has as many")
    check((out / "mapped.csv").read_text().count("\n") == 1 + 4 * 30, "the samples of the first limit")
    check(run("--trace", trace, "--arch", "ept", "--policy", "fifo", "--limit", 16).returncode == 0, "the same under EPT")
    check(run("--trace", trace, "--policy", "online", "--limit", 24, "--tlb", 64, "--plan", "before,refill=9,recursive",
              "--jobs", 1).returncode == 0, "a TLB, another plan")
    r = run("--trace", trace, "--limit", 24, "--sensitivity", "--out", out)
    check(r.returncode == 0 and (out / "sensitivity.csv").read_text().startswith("parameter,value,geomean,worst,default\n"),
          "sensitivity")
    check(run("--convert", trace, folder / "copy.u64.zst").returncode == 0, "a conversion")
    check(run("--trace", folder / "copy.u64.zst", "--limit", 24, "--policy", "fifo").returncode == 0, "... is a trace")
    check(run("--help").returncode == 0, "help")

    refused("no --trace")
    refused("needs a value", "--trace")
    refused("nowhere.u64", "--trace", folder / "nowhere.u64")
    refused("from 12", "--trace", trace, "--limit", "11")
    refused("no number", "--trace", trace, "--limit", "64x")
    refused("empty word", "--trace", trace, "--limit", "64,,128")
    refused("--policy", "--trace", trace, "--policy", "lru")
    refused("neither", "--trace", trace, "--arch", "arm")
    refused("--plan", "--trace", trace, "--plan", "before,refill=3")
    refused("what is", "--trace", trace, "--plan", "sometimes")
    refused("what is", "--bogus")
    (folder / "bad.u64").write_bytes(trace.read_bytes()[:-3])
    refused("record 30000", "--trace", folder / "bad.u64")
    (folder / "foreign.u64").write_bytes(b"\xff" * 80)
    refused("record 1", "--trace", folder / "foreign.u64")
    refused("bad.u64", "--convert", folder / "bad.u64", folder / "x.u64")

sys.exit(1 if failed else 0)
