#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Draws docs/img/readers.{svg,png} from the migration rows of bench_micro's JSON; with --table prints the rows.

build/release/bench/bench_micro --benchmark_filter=migration --benchmark_out=migration.json
bench/plot/readers.py migration.json docs/img
"""
import json
import pathlib
import re

import plots

WAYS = (("lock", "#b3202c", "with the lock"), ("free", "#2a6f97", "without"))
SHOWN = 256  # MiB of the slot in the left pictures


def rows(path):
    for b in json.loads(pathlib.Path(path).read_text())["benchmarks"]:
        if m := re.match(r"migration<(\w+)>/(\d+)/(\d+)", b["name"]):
            yield (m[1], int(m[2]), int(m[3])), b


def time(ns):
    for unit, scale in (("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.3g} ns"


def table(data):
    print("| guest | slot | vCPUs | | pass | pages a pass | faults a second | writes a second | p50 | p99 | p99.9 | longest |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for (guest, mib, vcpus), b in sorted(data.items()):
        for way, _, words in WAYS:
            get = lambda k: b[f"{way}_{k}"]
            times = " | ".join(time(get(k)) for k in ("p50_ns", "p99_ns", "p999_ns", "most_ns"))
            print(f"| {guest.removesuffix('Guest').lower()} | {plots.size(mib)} | {vcpus} | {words} | {time(get('pass_ms') * 1e6)} | "
                  f"{get('dirty_pass'):,.0f} | {get('faults_s') / 1e6:.2f} M | {get('writes_s') / 1e6:.2f} M | {times} |")


def tail(b, way):
    points = sorted((int(k.rsplit("_", 1)[1]), v) for k, v in b.items() if k.startswith(way + "_beyond_"))
    return "".join(f"{ns} {share}\n" for ns, share in points if share > 0)


def script(data, folder, terminal, output):
    lines = [
        f"set terminal {terminal}", f"set output '{output}'", "set multiplot layout 1,3 margins 0.07,0.985,0.26,0.89 spacing 0.07,0",
        "set logscale xy", "set grid ytics lc rgb '#dddddd'", "set tics nomirror", "unset key",
    ]
    for n, (way, colour, words) in enumerate(WAYS):
        lines.append(f"set label '{words}' at screen {0.34 + 0.1 * n}, screen 0.06 left textcolor rgb '{colour}'")
    lines.append("set label 'filled, thick: 1 vCPU;   hollow, thin: 2 vCPUs' at screen 0.52, screen 0.06 left")
    for n, guest in enumerate(("DirectGuest", "PagingGuest")):
        if n == 1:
            lines += ["unset label", "unset ylabel"]
        else:
            lines.append("set ylabel 'share of the faults'")
        lines += [
            f"set title '{'direct map' if n == 0 else 'guest tables'}, {SHOWN} MiB'", "set xlabel 'a fault takes longer than'",
            "set xrange [32:3e7]", "set yrange [1e-6:1]", "set format y '10^{%T}'",
            "set xtics ('100 ns' 100, '1 us' 1e3, '10 us' 1e4, '100 us' 1e5, '1 ms' 1e6, '10 ms' 1e7)",
        ]
        plots = []
        for way, colour, _ in WAYS:
            for vcpus, style in ((1, "lw 2 pt 7 ps 0.4"), (2, "lw 1 pt 6 ps 0.6")):
                if (guest, SHOWN, vcpus) not in data:
                    continue
                dat = pathlib.Path(folder) / f"{guest}_{way}_{vcpus}.dat"
                dat.write_text(tail(data[guest, SHOWN, vcpus], way))
                plots.append(f"'{dat}' with linespoints {style} lc rgb '{colour}' notitle")
        lines.append("plot " + ", ".join(plots))
    sizes = sorted({k[1] for k in data if k[0] == "DirectGuest"})
    lines += [
        "set title 'direct map'", "set xlabel 'size of the slot'", "set ylabel 'faults answered, million a second'", "set format y '%g'",
        f"set xrange [{sizes[0] * 0.7}:{sizes[-1] * 1.4}]", "set yrange [0.01:10]",
        "set xtics (" + ", ".join(f"'{plots.size(m)}' {m}" for m in sizes) + ")",
    ]
    plots = []
    for way, colour, _ in WAYS:
        for vcpus, style in ((1, "lw 2 pt 7 ps 0.7"), (2, "lw 1 pt 6 ps 1.1")):
            dat = pathlib.Path(folder) / f"rate_{way}_{vcpus}.dat"
            dat.write_text("".join(f"{m} {data['DirectGuest', m, vcpus][way + '_faults_s'] / 1e6}\n" for m in sizes
                                   if ("DirectGuest", m, vcpus) in data))
            plots.append(f"'{dat}' with linespoints {style} lc rgb '{colour}' notitle")
    lines.append("plot " + ", ".join(plots))
    return "\n".join(lines) + "\n"


plots.main("readers", rows, table, script)
