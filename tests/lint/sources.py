#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""House rules that no compiler checks: layers, raw atomics, file length, licence lines, paths of a machine."""
import pathlib
import re
import subprocess
import sys

# Lower never includes higher. A folder that is not named here has no place yet: name it. Files beside the folders are
# vocabulary, as types.hpp is, unless named.
LAYERS = [
    {"types.hpp"},
    {"memory"},
    {"concepts"},
    {"arch", "grace", "lock", "reclaim", "host"},
    {"guest"},
    {"core"},
    {"shadow_mmu.hpp", "vcpu.hpp", "shadowmmu.hpp"},
    {"sim"},
]
MAX_HEADER_LINES = 500
SOURCE = {".hpp", ".cpp", ".h", ".c", ".S", ".ld", ".py", ".sh", ".cmake"}
ATOMICS = re.compile(r"__atomic_|__sync_|std::atomic|\bvolatile\b|#include <atomic>")
RAW_ROOMS = ("memory/", "sim/")
# A side word means what its entry says: one file reads the two together.
SIDE_WORDS = re.compile(r"\bside\s*\.\s*words_\b|\bside\s*\[|friend class SideAccess")
SIDE_ROOMS = ("core/side.hpp", "core/page.hpp")
# Written so that this file does not match itself.
MACHINE = re.compile(r"(?<![\w.$}/-])/(?:work|root|home)/[a-z]")


def layer(path):
    first = path.split("/")[0]
    vocabulary = 0 if first.endswith(".hpp") else None
    return next((i for i, names in enumerate(LAYERS) if first in names), vocabulary)


def strip_comments(text):
    """Comments and string literals become blanks; line numbers stay."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
    keep = lambda m: m[0] if m[0].startswith('"') and m[0].endswith('.hpp"') else re.sub(r"[^\n]", " ", m[0])
    return pattern.sub(keep, text)


def check_header(name, text):
    own = layer(name)
    if own is None:
        yield 1, f"belongs to no layer; add '{name.split('/')[0]}' to LAYERS in tests/lint/sources.py"
        return
    if text.count("\n") > MAX_HEADER_LINES:
        yield 1, f"has more than {MAX_HEADER_LINES} lines"
    if "#pragma once" not in text:
        yield 1, "lacks #pragma once"
    for n, line in enumerate(strip_comments(text).splitlines(), 1):
        if m := re.match(r'\s*#\s*include\s*"([^"]+)"', line):
            if not m[1].startswith("shadowmmu/"):
                yield n, f'includes "{m[1]}": name it from "shadowmmu/"'
                continue
            other = layer(m[1].removeprefix("shadowmmu/"))
            if other is None or other > own:
                yield n, f"includes the higher layer {m[1]}"
        if name not in SIDE_ROOMS and (m := SIDE_WORDS.search(line)):
            yield n, f"reads side words by '{m[0]}': only core/side.hpp does, beside their entry"
        if not name.startswith(RAW_ROOMS) and (m := ATOMICS.search(line)):
            yield n, f"'{m[0]}' outside memory/: go through Lock::Memory"


def check_any(path, text):
    lines = text.splitlines()
    if path.suffix in SOURCE or path.name == "CMakeLists.txt":
        head = lines[1:2] if lines and lines[0].startswith("#!") else lines[0:1]
        if not head or "SPDX-License-Identifier: BSL-1.0" not in head[0]:
            yield 1, "lacks the SPDX line"
    for n, line in enumerate(lines, 1):
        if m := MACHINE.search(line):
            yield n, f"names a path of one machine: {m[0]}"


def files(root):
    """What git would carry: tracked, or untracked and not ignored; everything where there is no git."""
    r = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if r.returncode == 0:
        return [root / f for f in r.stdout.splitlines() if (root / f).is_file()]
    skip = root / "build"
    return [f for f in root.rglob("*") if f.is_file() and skip not in f.parents]


def lint(root):
    failures = 0
    include = root / "include" / "shadowmmu"
    checked = 0
    for path in sorted(files(root)):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        checked += 1
        found = list(check_any(path, text))
        if path.suffix == ".hpp" and include in path.parents:
            found += check_header(path.relative_to(include).as_posix(), text)
        for n, what in found:
            print(f"{path.relative_to(root)}:{n}: error: {what}")
            failures += 1
    print(f"{checked} files checked, {failures} errors")
    return failures


def self_test():
    """Each rule must fire on what it forbids, and only there."""
    once = "#pragma once\n"
    bad = {
        "core/a.hpp": once + '#include "shadowmmu/sim/explore.hpp"\n',
        "memory/a.hpp": once + '#include "shadowmmu/concepts/memory.hpp"\n',
        "core/b.hpp": once + "int x = __atomic_" + "load_n(&y, 0);\n",
        "core/c.hpp": once + "vola" + "tile int x;\n",
        "core/d.hpp": once + "\n" * 600,
        "attic/a.hpp": once,
        "core/e.hpp": "int x;\n",
        "core/f.hpp": once + '#include "page.hpp"\n',
        "core/g.hpp": once + "int x = p.side.words_[3];\n",
    }
    good = {
        "core/a.hpp": once + '#include "shadowmmu/lock/spin.hpp"\n// vola' + "tile in a comment\n",
        "memory/b.hpp": once + "int x = __atomic_" + "load_n(&y, 0);\n",
    }
    wrong = [n for n, t in bad.items() if len(list(check_header(n, t))) != 1]
    wrong += [n for n, t in good.items() if list(check_header(n, t))]
    wrong += [] if list(check_any(pathlib.Path("x.md"), "see /wo" + "rk/x")) else ["machine path"]
    wrong += [] if list(check_any(pathlib.Path("x.cpp"), "int x;")) else ["spdx"]
    print("self-test:", ", ".join(wrong) or "each rule fires")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(1 if (self_test() if sys.argv[1:] == ["--self-test"] else lint(pathlib.Path(sys.argv[1]).resolve())) else 0)
