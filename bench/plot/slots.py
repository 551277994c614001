#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Draws docs/img/slot_removal.{svg,png} from the slot_removal rows of bench_micro's JSON; with --table prints the rows.

build/release/bench/bench_micro --benchmark_filter=slot_removal --benchmark_out=slots.json
bench/plot/slots.py slots.json docs/img
"""
import json
import pathlib

import plots

ONCE_MAPPED = 999  # the slot was mapped whole and is empty now
PERCENTS = (0, ONCE_MAPPED, 25, 100)
COLOURS = {1000: "#4c9a2a", 10000: "#d98200", 100000: "#b3202c"}


def rows(path):
    for b in json.loads(pathlib.Path(path).read_text())["benchmarks"]:
        name = b["name"].split("/")
        if name[0] == "slot_removal":
            yield (int(name[1]), int(name[2]), int(name[3])), b


def share(percent):
    return "once, not now" if percent == ONCE_MAPPED else f"{percent} %"


def table(data):
    print("| slot | mapped | set | All, ms | Targeted, ms | All / Targeted | removal alone | faults All | faults Targeted |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (w, mib, percent), b in sorted(data.items(), key=lambda kv: (kv[0][1], kv[0][2], kv[0][0])):
        ms = [f"{b[k] / 1e3:.3g} ({b[k + '_p25'] / 1e3:.3g}-{b[k + '_p75'] / 1e3:.3g})" for k in ("all_us", "targeted_us")]
        removal = f"{b['all_remove_us'] / 1e3:.3g}, {b['targeted_remove_us'] / 1e3:.3g}"
        print(f"| {plots.size(mib)} | {share(percent)} | {w:,} | {ms[0]} | {ms[1]} | {b['ratio']:.3g} | {removal} | "
              f"{b['all_faults']:,.0f} | "
              f"{b['targeted_faults']:,.0f} |")


def script(data, folder, terminal, output):
    sets = sorted({k[0] for k in data})
    sizes = sorted({k[1] for k in data})
    lines = [
        f"set terminal {terminal}", f"set output '{output}'", "set multiplot layout 1,4 margins 0.075,0.985,0.25,0.89 spacing 0.015,0",
        "set logscale x 2", "set logscale y 10", "set yrange [0.001:300]", f"set xrange [{sizes[0] * 0.7}:{sizes[-1] * 1.4}]",
        "set grid ytics lc rgb '#dddddd'", "set tics nomirror", "set format y '%g'", "unset key",
        "set xtics (" + ", ".join(f"'{m}M' {m}" if m < 1024 else f"'{m // 1024}G' {m}" for m in sizes[::2]) + ")",
    ]
    legend = [("thick, filled: All;   thin, hollow: Targeted;   working set in pages:", "#000000", 0.1)]
    legend += [(f"{w:,}", COLOURS.get(w, "#444444"), 0.5 + 0.07 * i) for i, w in enumerate(sets)]
    for text, colour, x in legend:
        lines.append(f"set label '{text}' at screen {x}, screen 0.06 left textcolor rgb '{colour}'")
    for n, percent in enumerate(PERCENTS):
        if n == 1:
            lines.append("unset label")
        lines.append(f"set title 'slot mapped {share(percent)}'")
        lines.append("set xlabel 'size of the slot'")
        if n == 0:
            lines.append("set ylabel 'remove, add, refault: ms'")
        else:
            lines += ["unset ylabel", "set format y ''"]
        plots = []
        for column, style in ((2, "lw 2 pt 7 ps 0.7 dt 1"), (3, "lw 1 pt 6 ps 1.1 dt 2")):
            for w in sets:
                dat = pathlib.Path(folder) / f"{w}_{percent}.dat"
                dat.write_text("".join(f"{m} {data[w, m, percent]['all_us'] / 1e3} {data[w, m, percent]['targeted_us'] / 1e3}\n"
                                       for m in sizes if (w, m, percent) in data))
                plots.append(f"'{dat}' using 1:{column} with linespoints {style} lc rgb '{COLOURS.get(w, '#444444')}' notitle")
        lines.append("plot " + ", ".join(plots))
    return "\n".join(lines) + "\n"


plots.main("slot_removal", rows, table, script)
