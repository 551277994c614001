#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Counts what ran: doctest's own summaries inside a CTest JUnit file, one per other CTest test.

count.py JUNIT.xml   prints "passed failed skipped", then a line for each failure.
"""
import re
import sys
import xml.etree.ElementTree as xml

SUMMARY = re.compile(r"\[doctest\] test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed(?:\s*\|\s*(\d+) skipped)?")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main():
    total = [0, 0, 0]
    failures = []
    for case in xml.parse(sys.argv[1]).getroot().iter("testcase"):
        name, status = case.get("name"), case.get("status")
        output = COLOUR.sub("", case.findtext("system-out") or "")
        counts = [0, 0, 0]
        for m in SUMMARY.finditer(output):
            counts = [counts[0] + int(m[2]), counts[1] + int(m[3]), counts[2] + int(m[4] or 0)]
        if status == "run":
            counts = counts if sum(counts) else [1, 0, 0]
        elif status == "fail":
            # A crash, a time-out or a sanitizer report is a failure that no summary shows.
            counts[1] = max(counts[1], 1)
            failures.append(name)
        else:
            counts = [0, 0, 1]
        total = [a + b for a, b in zip(total, counts)]
    print(*total)
    for name in failures:
        print(name)


main()
