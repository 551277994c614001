#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""What a change can touch: since.py ROOT REV BUILD, for `./dev test --since REV`.

Prints key=value lines: the changed files; targets to build; a regular expression of CTest's tests; headers that changed;
files whose planted bugs are to be tried; whether guests and lint are to run. Which unit depends on which file the compiler
says (-MM, with the flags of BUILD/compile_commands.json), so that no include is guessed.

since.py --self-test
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

DOCS = re.compile(r"(^docs/|\.md$|^LICENSE$|^\.gitignore$|^bench/(plot|results)/)")
# What decides how everything is built: all of gcc's tests.
BUILD_FILES = re.compile(r"(^|/)(CMakeLists\.txt|CMakePresets\.json|[\w.-]+\.cmake|[\w.-]+\.in)$")
GATES = {"compile_fail": r"compile_fail\..*", "freestanding": r"freestanding\..*", "consumer": r"consumer\..*",
         "lint": r"lint\..*|tools\..*", "tools": r"lint\..*|tools\..*"}


def tests_of_target(target):
    """The pattern of CTest's tests that run this target."""
    special = {"test_liburcu": r"example\.liburcu\.grace", "liburcu": r"example\.liburcu", "minimal": r"example\.minimal",
               "reclaim_study_small": "reclaim_study"}
    if target in special:
        return special[target]
    if target.startswith("test_") and target != "test_main":
        suite = target.removeprefix("test_")
        # core_Sieve and its like: the same binary under another policy.
        return rf"{suite}(_[A-Z]\w*)?|cases\.{suite}"
    return None


def target_of(command):
    """From the name of the object: CMake before 3.29 says it nowhere else."""
    m = re.search(r" -o (?:\S*/)?CMakeFiles/([^/]+)\.dir/", command)
    # Objects that a suite shares with a tool.
    return {"explore_scenarios": "test_explore"}.get(m[1], m[1]) if m else None


def decide(changed, units):
    """changed: paths below the root; units: [(target, source, files that it depends on)], paths below the root too."""
    code = {f for f in changed if not DOCS.search(f)}
    targets, tests, bugs = set(), set(), set()
    all_tests = any(BUILD_FILES.search(f) and not f.startswith(("tests/guests/", "examples/bare_metal_svm/"))
                    for f in code)
    for target, source, files in units:
        if all_tests or files & code:
            targets.add(target)
            if t := tests_of_target(target):
                tests.add(t)
        if files & {f for f in code if f.startswith("tests/")} and source.endswith("_test.cpp"):
            bugs.add(source.removeprefix("tests/"))
    if all_tests:
        tests.add(".*")
    if "test_main" in targets:  # in every suite
        tests.add(r".*")
        targets = {t for t, _, _ in units}
    headers = sorted(f for f in code if f.startswith("include/"))
    if headers:
        tests |= {GATES[g] for g in ("compile_fail", "freestanding", "consumer", "lint")}
        bugs |= {f.removeprefix("include/shadowmmu/") for f in headers}
    for f in code:
        part = f.split("/")
        if part[0] == "tests" and len(part) > 2 and part[1] in GATES:
            tests.add(GATES[part[1]])
        if f.startswith("tests/planted/bugs/"):
            bugs.add(part[-1])
        elif f.startswith("tests/planted/"):
            bugs.add("*")
        if f == "dev" or f.startswith("tests/tools/"):
            tests.add(GATES["tools"])
        if f == "tests/tools/inventory.py":
            tests.add(r"cases\..*")
            targets |= {t for t, _, _ in units if t.startswith("test_")}
    if "tests/reclaim/study.py" in code:
        tests.add("reclaim_study")
        targets.add("reclaim_study_small")
    guests = any(f.startswith(("examples/bare_metal_svm/", "tests/guests/")) for f in code)
    if changed:
        tests.add(GATES["lint"])
    return {"changed": " ".join(sorted(changed)), "targets": " ".join(sorted(targets)),
            "tests": f"^({'|'.join(sorted(tests))})$" if tests else "", "headers": " ".join(headers),
            "bugs": ",".join(sorted(bugs)), "guests": "yes" if guests else "no", "lint": "yes" if changed else "no"}


def changed_files(root, rev):
    git = lambda *a: subprocess.run(["git", "-C", str(root), *a], capture_output=True, text=True, check=True).stdout
    names = git("diff", "--name-only", "--no-renames", rev).splitlines()
    return set(names) | set(git("ls-files", "-o", "--exclude-standard").splitlines())


def dependencies(root, entry):
    """The files below root that this unit includes, itself too; None where the compiler cannot tell."""
    words, out = shlex.split(entry["command"]), []
    if os.path.basename(words[0]) == "ccache":
        words = words[1:]
    skip = False
    for w in words:
        if skip:
            skip = False
        elif w in ("-o", "-MF", "-MT"):
            skip = True
        elif w not in ("-c", "-MD"):
            out.append(w)
    r = subprocess.run([*out, "-MM"], capture_output=True, text=True, cwd=entry["directory"])
    if r.returncode:
        return None
    files = r.stdout.replace("\\\n", " ").split(": ", 1)[1].split()
    found = set()
    for f in files:
        path = pathlib.Path(os.path.normpath(pathlib.Path(entry["directory"]) / f))
        if root in path.parents:
            found.add(path.relative_to(root).as_posix())
    return found


def units(root, build):
    entries = []
    for e in json.loads((build / "compile_commands.json").read_text()):
        target = target_of(e["command"])
        # The guests and the hypervisor go by their folders; headers by themselves are a gate's matter.
        if target and not target.startswith(("hv64", "guest_")) and "verify_interface" not in target and \
                e["file"].endswith((".cpp", ".cxx")):
            entries.append((target, e))
    if not any(target == "test_core" for target, _ in entries):
        sys.exit("no unit of test_core in compile_commands.json: nothing could be said about what depends on what")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda te: dependencies(root, te[1]), entries))
    result = []
    for (target, e), files in zip(entries, found):
        source = os.path.relpath(e["file"], root)
        if files is None:
            # It does not even preprocess: whatever changed, it is touched.
            print(f"note: no dependencies of {source}", file=sys.stderr)
            files = Everything()
        result.append((target, source, files))
        # A joined unit stands for the tests that it includes.
        for f in files:
            if f.endswith("_test.cpp") and f != source:
                result.append((target, f, files))
    return result


class Everything(set):
    def __and__(self, other):
        return set(other)


def self_test():
    u = [("test_core", "tests/core/a_test.cpp", {"tests/core/a_test.cpp", "include/shadowmmu/core/fault.hpp"}),
         ("test_sim", "tests/sim/b_test.cpp", {"tests/sim/b_test.cpp", "tests/sim/machine.hpp"}),
         ("test_main", "tests/main.cpp", {"tests/main.cpp"})]
    d = decide({"docs/TESTING.md"}, u)
    assert d["targets"] == "" and d["bugs"] == "" and d["lint"] == "yes" and d["guests"] == "no", d
    d = decide({"include/shadowmmu/core/fault.hpp"}, u)
    assert d["targets"] == "test_core" and d["bugs"] == "core/fault.hpp", d
    assert re.match(d["tests"], "core") and re.match(d["tests"], "core_Sieve") and not re.match(d["tests"], "sim"), d
    assert re.match(d["tests"], "compile_fail.arch_mmio") and not re.match(d["tests"], "random_Sieve"), d
    d = decide({"tests/sim/machine.hpp"}, u)
    assert d["targets"] == "test_sim" and d["bugs"] == "sim/b_test.cpp" and not re.match(d["tests"], "core"), d
    d = decide({"tests/planted/bugs/core.txt"}, u)
    assert d["bugs"] == "core.txt" and d["targets"] == "", d
    assert decide({"examples/bare_metal_svm/hv/a.cpp"}, u)["guests"] == "yes"
    d = decide({"CMakeLists.txt"}, u)
    assert re.match(d["tests"], "random_Sieve") and "test_sim" in d["targets"], d
    assert target_of("g++ -o tests/CMakeFiles/explore_scenarios.dir/explore/a.cpp.o -c a.cpp") == "test_explore"
    assert tests_of_target("explore") is None and \
        target_of("g++ -O1 -o tests/CMakeFiles/test_core.dir/core/a.cpp.o -c a.cpp") == "test_core"
    print("self-test: since.py maps changes to what they touch")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root, rev, build = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], pathlib.Path(sys.argv[3]).resolve()
    changed = changed_files(root, rev)
    only_docs = all(DOCS.search(f) for f in changed)
    for key, value in decide(changed, [] if only_docs else units(root, build)).items():
        print(f"{key}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
