#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Freestanding gates: each header compiles behind nothing but what it includes itself (bare, but for those of user
space), drags in nothing hosted, needs nothing from a C library, locks nothing."""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
BARE = ["-std=c++20", "-ffreestanding", "-fno-exceptions", "-fno-rtti"] + WARNINGS
KERNEL = ["-O2", "-DNDEBUG", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"]
HOSTED = re.compile(r"^(sim/|host/arena)")  # rooms that may use all of the standard library
FORBIDDEN = re.compile(
    r"(/(c\+\+/[^/]+|c\+\+/v1)/(atomic|string|vector|iostream|memory|functional|mutex|thread|map|unordered_map|deque"
    r"|list|optional|variant|algorithm|chrono))$|(/boost/intrusive/unordered_set\.hpp)$")
INCLUDE = re.compile(r'#\s*include\s+(?:"shadowmmu/([^"]+)"|<([^>]+)>)')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
MEM_FUNCTIONS = {"memcpy", "memmove", "memset", "memcmp"}


def run(command):
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})


def check_header(args, name):
    unit = args.work / (re.sub(r"[^a-z0-9]", "_", name) + ".cpp")
    unit.write_text(f'#include "shadowmmu/{name}"\n#include "shadowmmu/{name}"\n')
    # -H, not -MD: clang's dependency files also name what is only asked for by __has_include.
    hosted = HOSTED.match(name) is not None
    flags = ["-std=c++20", *WARNINGS] if hosted else BARE
    r = run([args.compiler, *flags, "-fsyntax-only", f"-I{args.include}", "-H", str(unit)])
    if r.returncode != 0:
        return [f"{name}: does not compile by itself{'' if hosted else ', bare'}:\n{r.stderr}"]
    if hosted:
        return []
    files = [line.split(" ", 1)[1].strip() for line in r.stderr.splitlines() if re.match(r"\.+ ", line)]
    return [f"{name}: drags in {f}" for f in files if FORBIDDEN.search(f)]


def includes_of(text):
    """[(name, whether it stands at the head and under no condition)] of the headers that a file includes."""
    found, depth, head = [], 0, True
    for line in COMMENT.sub(" ", text).splitlines():
        line = line.strip()
        if m := INCLUDE.match(line):
            found.append((m[1] or m[2], depth == 0 and head))
        elif re.match(r"#\s*if", line):
            depth += 1
        elif re.match(r"#\s*endif", line):
            depth -= 1
        elif line and (not line.startswith("#") or re.match(r"#\s*define", line)):
            head = False
    return found


class Includes:
    """Which header stands before which. In a unit that begins with one header, those that it includes are compiled as if
    each were alone, too, where all that stands before them is what they include themselves."""
    def __init__(self, files):
        self.of = {name: includes_of(text) for name, text in files.items()}
        self.known = {}

    def own(self, name):
        """What it surely includes before its first declaration, directly or not."""
        if name not in self.known:
            self.known[name] = set()  # for a circle, which the compiler refuses
            for other, sure in self.of.get(name, []):
                if sure:
                    self.known[name] |= {other} | self.own(other)
        return self.known[name]

    def alone(self, first):
        """The headers that a unit which begins with `first` compiles as if alone."""
        before, found = set(), set()

        def read(name):
            entered.add(name)
            at_entry = set(before)
            for other, sure in self.of.get(name, []):
                if not sure:
                    before.add(f"declarations of {name}")
                if other not in entered:
                    read(other)
            if name in self.of and at_entry <= self.own(name):
                found.add(name)
            before.add(name)
        entered = set()
        read(first)
        return found

    def cover(self, names):
        """Headers that units must begin with so that each of names is once compiled as if alone."""
        alone = {name: self.alone(name) & names for name in names}
        left, chosen = set(names), []
        while left:
            best = max(sorted(left), key=lambda name: len(alone[name] & left))
            chosen.append(best)
            left -= alone[best]
        return chosen


def headers(args):
    root = args.include / "shadowmmu"
    files = {h.relative_to(root).as_posix(): h.read_text() for h in sorted(root.rglob("*.hpp"))}
    includes = Includes(files)
    hosted = {name for name in files if HOSTED.match(name)}
    todo = includes.cover(hosted) + includes.cover(set(files) - hosted)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [f for found in pool.map(lambda name: check_header(args, name), todo) for f in found]
    print(f"{len(files)} headers checked in {len(todo)} units")
    return failures


def compile_object(args):
    target = args.work / (args.source.stem + ".o")
    r = run([args.compiler, *BARE, *KERNEL, f"-I{args.include}", "-c", str(args.source), "-o", str(target)])
    if r.returncode:
        sys.exit(f"{args.source.name}: does not compile\n{r.stderr}")
    return target


def undefined(args):
    out = run(["nm", "-u", str(compile_object(args))]).stdout
    names = {line.split()[-1] for line in out.splitlines() if line.strip()}
    print("undefined:", ", ".join(sorted(names)) or "none")
    return [f"{args.source.name}: needs {n}" for n in sorted(names - MEM_FUNCTIONS)]


def unlocked(args):
    listing = run(["objdump", "-d", "--no-show-raw-insn", str(compile_object(args))]).stdout
    defined = set(re.findall(r"<([^>+]+)>:$", listing, re.M))
    wanted = re.search(r"^// symbols: (.*)$", args.source.read_text(), re.M)
    failures = [f"{args.source.name}: no code for {s}" for s in (wanted[1].split() if wanted else []) if s not in defined]
    where = "?"
    for line in listing.splitlines():
        if m := re.search(r"<([^>+]+)>:$", line):
            where = m[1]
        # xchg with memory locks the bus without a prefix; fences are as needless with one agent.
        elif re.search(r"\t(lock\b|xchg\b.*\(|[mls]fence\b)", line):
            failures.append(f"{where}: {line.strip()}")
    print(f"{len(defined)} functions disassembled")
    return failures


def locked(args):
    """Functions named by lines `// locked: NAME N` hold at most N locked instructions and full fences, nothing inlined
    elsewhere: a promise about the fast paths of a lock with readers that each compiler must keep."""
    listing = run(["objdump", "-d", "--no-show-raw-insn", str(compile_object(args))]).stdout
    counts, where = {}, "?"
    for line in listing.splitlines():
        if m := re.search(r"<([^>+]+)>:$", line):
            where = m[1]
            counts.setdefault(where, 0)
        elif re.search(r"\t(lock\b|xchg\b.*\(|mfence\b)", line):
            counts[where] += 1
    wanted = re.findall(r"^// locked: (\S+) (\d+)$", args.source.read_text(), re.M)
    failures = [] if wanted else [f"{args.source.name}: no line '// locked: NAME N'"]
    for name, most in wanted:
        if name not in counts:
            failures.append(f"{args.source.name}: no code for {name}")
        elif counts[name] > int(most):
            failures.append(f"{name}: {counts[name]} locked instructions and fences, {most} allowed")
        else:
            print(f"{name}: {counts[name]} of {most}")
    return failures


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--compiler", required=True)
    p.add_argument("--include", required=True, type=pathlib.Path)
    p.add_argument("--work", required=True, type=pathlib.Path)
    p.add_argument("mode", choices=["headers", "undefined", "unlocked", "locked"])
    p.add_argument("source", nargs="?", type=pathlib.Path)
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failures = {"headers": headers, "undefined": undefined, "unlocked": unlocked, "locked": locked}[args.mode](args)
    for f in failures:
        print("error:", f)
    sys.exit(1 if failures else 0)


main()
