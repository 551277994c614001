#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Tests that are compiled as one unit, since they use the same Mmu: join.py TESTS OUT FILE...

Each file gets a namespace of its own, which is why one that opens a namespace of the library cannot be joined, and why
what it includes must come before. Which files are joined tests/CMakeLists.txt says: set(joined_UNIT FILE...).
"""
import pathlib
import re
import sys


def unit(tests, files):
    """The text of one unit of files below `tests`."""
    includes, text = [], ""
    for file in files:
        path = tests / file
        if not path.is_file():
            sys.exit(f"tests/CMakeLists.txt joins {file}, which is gone")
        includes += [line for line in path.read_text().splitlines() if line.startswith("#include ")]
        text += f'namespace joined_{path.stem} {{\n#include "{path}"\n}}\n'
    return "\n".join(dict.fromkeys(includes)) + "\n" + text


def units(tests):
    """{unit: [file, ...]} as tests/CMakeLists.txt has them."""
    text = (tests / "CMakeLists.txt").read_text()
    found = {m[1]: m[2].split() for m in re.finditer(r"^set\(joined_(\w+)\s+([^)]*)\)", text, re.M)}
    if not found:
        sys.exit("tests/CMakeLists.txt joins no tests")
    return found


def main():
    tests, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    text = unit(tests, sys.argv[3:])
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.is_file() or out.read_text() != text:  # else it would be compiled again
        out.write_text(text)


if __name__ == "__main__":
    main()
