#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Every line of a "quoted from FILE" block of README.md stands in that file: a quotation that has aged fails."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
blocks = re.findall(r"```\w* quoted from (\S+)\n(.*?)```", (root / "README.md").read_text(), re.S)
bad = [f"{path}: no longer has: {line}" for path, text in blocks for line in text.splitlines()
       if line.strip() and line not in (root / path).read_text().splitlines()]
print("\n".join(bad) or f"{len(blocks)} quotations stand")
sys.exit(1 if bad or not blocks else 0)
