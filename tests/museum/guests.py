#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Would a guest have noticed? Builds the example hypervisor with the museum's planted bugs in it, chooses one at a time
and runs the paging guest (tests/guests/paging, every twenty-fourth product, without the random group) on it in QEMU.
Writes guests.json: what the guest said of each, and at which commit. Half an hour of two cores, or more.

guests.py HYPERVISOR-SOURCES PAGING-GUEST [--jobs N] [--names A,B]
"""
import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import museum
from museum import ROOT, planting

WORK = ROOT / "build" / "museum" / "hypervisor"
MAGIC = b"PLANTED-CHOICE:\0"
REACHED = "<planted>"
SAMPLE, PATIENCE = "sample=24", 150  # seconds: about six times what the guest takes
LAST = "paging: odd"  # the group before the last, which takes as long as all others


def header(_names):
    """The choice is a word of the binary that this script writes: a hypervisor has no environment. What is chosen says
    on the serial line when it is first run."""
    return f"""#pragma once
namespace shadowmmu_planted {{
struct Choice {{ char magic[16]; volatile int chosen; volatile bool told; }};
[[gnu::used]] inline Choice choice = {{"{MAGIC[:-1].decode()}", 0, false}};
inline bool reached() {{
  if (choice.told) return true;
  choice.told = true;
  for (const char* c = "{REACHED}"; *c != 0; ++c)
    __asm__ volatile("outb %0, %1" : : "a"(*c), "Nd"(static_cast<unsigned short>(0x3f8)));
  return true;
}}
constexpr bool is(int number) {{
  if (__builtin_is_constant_evaluated()) return false;
  return choice.chosen == number && reached();
}}
}}
"""


def build(sources, overlay, where):
    """Returns (hv.elf, None) or (None, what went wrong)."""
    flags = f"-w -iquote {overlay}"
    if (overlay / planting.choice.CHOICE_HEADER).exists():
        flags += f" -include {overlay / planting.choice.CHOICE_HEADER}"
    for command in (["cmake", "-S", sources, "-B", where, "-G", "Ninja", "-D", "CMAKE_CXX_COMPILER=g++", "-D",
                     f"CMAKE_CXX_FLAGS={flags}"],
                    ["cmake", "--build", where, "--target", where / "hv.elf"]):
        r = subprocess.run(command, capture_output=True, text=True)
        if r.returncode:
            return None, r.stdout + r.stderr
    return where / "hv.elf", None


def run_guest(elf, guest):
    """Returns (whether the guest noticed, in which words, whether the planted code ran). The guest is watched until it
    says that a group of cases failed, or has come to the last one, which draws at random."""
    command = ["timeout", str(PATIENCE), ROOT / "examples/bare_metal_svm/run", "--hv", elf, "--timeout", str(PATIENCE),
               "--args", SAMPLE, guest]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True)
    reached, failed, done, last = False, "", False, ""
    for line in process.stdout:
        reached = reached or REACHED in line
        line = line.replace(REACHED, "").strip()
        failed = line if line.endswith("cases FAILED") else ""
        done = line.startswith(LAST) and not failed
        if "error:" in line or "guest exit" in line:
            last = line
        if failed or done:
            break
    if failed or done:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if done:
        return False, "does not notice", reached
    words = failed or last
    if not words:
        return True, "does not come to its end", reached
    return True, "notices: `" + words[:160].replace("`", "'") + "`", reached


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sources", type=pathlib.Path)
    p.add_argument("guest", type=pathlib.Path)
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--names", help="only these plants; what was seen of the others is kept")
    args = p.parse_args()
    exhibits = museum.parse((museum.HERE / "exhibits.txt").read_text())
    wanted = {e.plant for e in exhibits if e.plant}
    if args.names:
        wanted &= set(args.names.split(","))
    bugs = [b for b in planting.all_bugs() if b.name in wanted]
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True,
                            text=True).stdout.strip()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    runner = planting.Runner(argparse.Namespace(work=WORK, compiler=None))
    numbers = {}

    def remember(names):
        numbers.clear()
        numbers.update({name: number for number, name in names.items()})
        return header(names)

    overlay = WORK / "include"
    elf, together, error = runner.together(bugs, overlay, remember,
                                           lambda: build(args.sources, overlay, WORK / "together"))
    if error:
        sys.exit(error[-3000:])
    began = time.monotonic()
    as_it_is = run_guest(elf, args.guest)
    print(f"no bug: {as_it_is[1]}, {time.monotonic() - began:.0f} s", flush=True)
    if as_it_is != (False, "does not notice", False):
        return 1

    def one(bug):
        if bug.name in together:
            binary = elf.read_bytes()
            at = binary.index(MAGIC) + len(MAGIC)
            mine = WORK / f"{bug.name}.elf"
            mine.write_bytes(binary[:at] + numbers[bug.name].to_bytes(4, "little") + binary[at + 4:])
        else:
            alone = WORK / f"alone-{bug.name}"
            if wrong := runner.lay(bug, alone / "include"):
                return bug.name, (False, wrong)
            mine, wrong = build(args.sources, alone / "include", alone / "build")
            if wrong:
                return bug.name, (False, "is not in what the example instantiates")
        noticed, words, reached = run_guest(mine, args.guest)
        if bug.name in together and not reached:
            words = "never runs it" if not noticed else words
        return bug.name, (noticed, words)

    known = museum.read_json(museum.GUESTS) if args.names else {}
    record = {e.plant: known[e.plant] for e in exhibits if e.plant in known}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, (noticed, words) in pool.map(one, bugs):
            record[name] = {"noticed": noticed, "says": words, "commit": commit}
            print(f"{name}: {words}", flush=True)
    museum.GUESTS.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
    shutil.rmtree(WORK, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
