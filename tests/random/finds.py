#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Which planted bugs the random world finds, by which seed and after how many actions.

finds.py [--names A,B] [--jobs N]   plants the museum's exhibits and the faults that were found from outside, or just
                                    these, and runs the suite `random` with the seeds that a whole run has. Writes what it
                                    saw (finds.json) and the table (FINDS.md) anew; with --names the rest is kept.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in ("planted", "museum"):
    sys.path.append(str(ROOT / "tests" / folder))
import museum  # noqa: E402
import planting  # noqa: E402

RECORD = HERE / "finds.json"
TABLE = HERE / "FINDS.md"
# What the builds of a whole run have together: each has so many from SHADOWMMU_FIRST_SEED of its preset on.
EACH = int(re.search(r"#else\s+inline constexpr std::uint64_t kSeeds = (\d+);", (HERE / "seeds.hpp").read_text())[1])
FIRST = [1, *map(int, re.findall(r'"SHADOWMMU_FIRST_SEED": "(\d+)"', (ROOT / "CMakePresets.json").read_text()))]
SEEDS = EACH * len(FIRST)
assert sorted(FIRST) == [1 + n * EACH for n in range(len(FIRST))], "the builds' seeds overlap or leave a gap"
UNITS = ["random/random_test.cpp", "random/agents_test.cpp", "random/policies_test.cpp", "random/ept_test.cpp"]
FOUND = re.compile(r"seed (\d+), after (\d+) actions: (.*)")


def decide(runner, bug, groups):
    """Returns what the suite makes of the bug: {"case", "seed", "after", "words"}, or {} where it passes."""
    for unit in UNITS:
        binary, names = groups[unit]
        trace = {"SHADOWMMU_TRACE_SEEDS": "1", "SHADOWMMU_SEEDS": str(SEEDS)}
        reached = False
        if bug.name in names:
            verdict, detail, reached = runner.execute(binary, unit, [], 600, bug.name, trace)
        if bug.name not in names or (verdict == "failed" and not reached):
            where = runner.work / "alone" / f"{bug.name}-{unit.replace('/', '_')}"
            error = runner.lay(bug, where / "include")
            if not error:
                alone, error = runner.build(where, unit, f"-I{where}/include")
            if error:
                return {"error": error.splitlines()[0]}
            verdict, detail, _ = runner.execute(alone, unit, [], 600, "", trace)
            shutil.rmtree(where, ignore_errors=True)
        if verdict == "passed":
            continue
        case, words = planting.says(verdict, detail)
        seeds = re.findall(r"^seed (\d+)$", detail, re.M)
        if found := FOUND.search(detail):
            return {"case": case, "seed": int(found[1]), "after": int(found[2]), "words": found[3].strip()}
        return {"case": case, "seed": int(seeds[-1]) if seeds else 0, "after": 0, "words": words}
    return {}


def table(record):
    found = {n: f for n, f in record["finds"].items() if f.get("case")}
    others = sorted(n for n, f in record["finds"].items() if not f.get("case"))
    bugs = {b.name: b for b in planting.all_bugs()}
    lines = [
        "# What the random world finds", "",
        "Each bug of the museum, and of the faults that were found from outside, planted by itself; then the suite",
        f"`random` with the seeds that a whole run has: 1 to {SEEDS} of each case, {EACH} of them in each of three builds.",
        "`tests/random/finds.py` makes this table.", "",
        "The seeds were fixed before; the mix of actions and the guest's layout were not: they were changed three times with",
        "the table of the run before at hand, and some of it has one planted bug in view (a table at gfn 0, a root apart",
        "from its tables, pages that lead to no memory, one frame that many pages map, a PCID switched after an edit). So",
        "the number says what the world reaches, not what it would find of bugs that nobody knew. The words of a failure",
        "are those of that commit.", "",
        f"Of {len(found) + len(others)} planted bugs it finds {len(found)}, at commit {record['commit']}" +
        (f"; those that were not tried again were at {record['rest']}." if "rest" in record else "."), "",
        "| planted bug | test case | seed | actions | what it says |", "|---|---|---|---|---|"]
    for name in sorted(found):
        f = found[name]
        words = f["words"].replace("|", "\\|")
        lines.append(f"| {name} | {f['case']} | {f['seed']} | {f['after'] or 'stops'} | {words} |")
    lines += ["", "## What other suites find", "",
              "| planted bug | what it would do | found by |", "|---|---|---|"]
    for name in others:
        b = bugs[name]
        tests = ", ".join(dict.fromkeys(t for t, _ in b.tests))
        lines.append(f"| {name} | {b.why} | {tests} |")
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--names", help="only these planted bugs (comma-separated)")
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    args = p.parse_args()
    exhibits = {e.plant for e in museum.parse((museum.HERE / "exhibits.txt").read_text()) if e.plant}
    bugs = [b for b in planting.all_bugs() if b.name in exhibits or b.source in ("faults.txt", "ranges.txt")]
    if args.names:
        wanted = set(args.names.split(","))
        bugs = [b for b in planting.all_bugs() if b.name in wanted]
    work = pathlib.Path(tempfile.mkdtemp(prefix="finds-"))
    runner = planting.Runner(argparse.Namespace(work=work, compiler=None))
    try:
        if error := runner.compile(planting.TESTS / "main.cpp", runner.main, "-O0"):
            sys.exit(error)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            built = list(pool.map(lambda u: runner.build_group(u, bugs), UNITS))
            groups = {}
            for unit, (binary, names, error) in zip(UNITS, built):
                if error:
                    sys.exit(f"{unit} does not compile:\n{error}")
                groups[unit] = binary, names
                verdict, detail, _ = runner.execute(binary, unit, [], 300)
                if verdict != "passed":
                    sys.exit(f"{unit} fails as it is:\n{detail[-3000:]}")
            print(f"{len(bugs)} bugs", flush=True)
            record = {"commit": "", "finds": {}}
            if args.names and RECORD.exists():
                record = json.loads(RECORD.read_text())
                record.setdefault("rest", record["commit"])
            future = {pool.submit(decide, runner, b, groups): b for b in bugs}
            for n, f in enumerate(concurrent.futures.as_completed(future), 1):
                b, r = future[f], f.result()
                record["finds"][b.name] = r
                print(f"{n:4}/{len(bugs)} {b.name:40} " + (f"{r['case'][:40]}: seed {r['seed']}, {r['after']}: {r['words'][:90]}"
                                                  if r.get("case") else r.get("error", "passes")), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    record["commit"] = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True,
                                      text=True).stdout.strip()
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    TABLE.write_text(table(record))


if __name__ == "__main__":
    main()
