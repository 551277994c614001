#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Draws reclaim_{mapped,refaults,sawtooth,sensitivity}.{svg,png} from what reclaim_study wrote.

build/release/bench/reclaim/reclaim_study --trace ... --out build/reclaim
bench/plot/reclaim.py build/reclaim docs/img

The sensitivity is drawn where build/reclaim/sensitivity.csv is: parameter,value,geomean,worst[,default] of refaults over
FIFO's. The left picture of mapped, before and after the mail of 2012, is drawn from another run where --before names its
output and its --plan, as in --before build/reclaim/before before,low=5,refill=25.
"""
import argparse
import collections
import csv
import math
import pathlib
import sys

import plots

# name: colour (Okabe and Ito's, for any eye, and some of Tol's), point, dash, thickness; in the order of the legends.
POLICIES = {
    "fifo": ("#000000", 7, 1, 1.5),
    "kvm-fifo": ("#882255", 5, 1, 1.5),
    "kvm-fifo-pinned": ("#882255", 4, 1, 1),
    "parent-touch": ("#999933", 9, 1, 1.5),
    "leaf-first": ("#999933", 8, 1, 1),
    "xen-roots": ("#888888", 13, 1, 1),
    "fault-lru": ("#e69f00", 11, 1, 1.5),
    "clock": ("#009e73", 5, 1, 1.5),
    "sieve": ("#56b4e9", 7, 1, 1.5),
    "s3-fifo": ("#009e73", 4, 1, 1),
    "greedy-dual": ("#0072b2", 9, 1, 1.5),
    "greedy-dual-no-abit": ("#0072b2", 8, 1, 1),
    "greedy-dual-frequency": ("#d55e00", 7, 1, 2.5),
    "belady-table": ("#cc79a7", 6, 2, 1.5),
    "belady-cost": ("#cc79a7", 7, 2, 1.5),
}
OTHER = ("#444444", 1, 3, 1)
BOUND = "lower-bound"
FLOOR = "filledcurves fs solid noborder lc rgb '#e0e0e0'"
BOUND_LINE = "linespoints lw 1 dt 3 pt 1 ps 0.8 lc rgb '#555555'"
GRID = "set grid back lt 1 lw 0.5 lc rgb '#dddddd'"
LIMITS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
POINTS = (7, 9, 5, 13, 11, 8)
OVER_TIME = ("fifo", "kvm-fifo", "fault-lru", "clock", "sieve", "greedy-dual", "greedy-dual-frequency", "belady-cost")
BEFORE_AFTER = ("kvm-fifo", "parent-touch")
DRAWN = 400  # points of a curve over time


def refuse(why):
    sys.exit(f"reclaim.py: {why}")


def read(folder, name):
    path = pathlib.Path(folder) / name
    if not path.is_file():
        refuse(f"no {path}: run reclaim_study with --out {folder} first")
    with path.open(newline="") as f:
        yield from csv.DictReader(f)


def numbers(row, *names):
    try:
        return [float(row[n]) for n in names]
    except (KeyError, TypeError, ValueError):
        refuse(f"not a row of reclaim_study: {row}")


def known(names):
    """In the order of POLICIES, and what it does not know last."""
    return [p for p in POLICIES if p in names] + sorted(n for n in names if n not in POLICIES and n != BOUND)


def line(policy):
    colour, _, dash, width = POLICIES.get(policy, OTHER)
    return f"lines lw {width} dt {dash} lc rgb '{colour}'"


def marked_line(policy):
    colour, point, dash, width = POLICIES.get(policy, OTHER)
    return f"linespoints lw {width} dt {dash} pt {point} ps 0.8 lc rgb '{colour}'"


def title(trace, arch):
    return f"{trace}, {arch}"


class Panels:
    """A multiplot whose panels stand in a grid, by pixels, and whose legend stands right of them."""

    def __init__(self, terminal, output, width, height, columns, rows, left, right, top=28, bottom=52, gap_x=14, gap_y=58):
        self.lines = [f"set terminal {terminal}", f"set output '{output}'", "set multiplot", "unset key", "set tics nomirror",
                      GRID + " ytics"]
        self.width, self.height, self.columns, self.right = width, height, columns, right
        self.left, self.top, self.gap_x, self.gap_y = left, top, gap_x, gap_y
        self.w = (width - left - right - gap_x * (columns - 1)) / columns
        self.h = (height - top - bottom - gap_y * (rows - 1)) / rows

    def panel(self, n, name):
        row, column = divmod(n, self.columns)
        x, y = self.left + column * (self.w + self.gap_x), self.top + row * (self.h + self.gap_y)
        sides = (x / self.width, (x + self.w) / self.width, 1 - (y + self.h) / self.height, 1 - y / self.height)
        self.lines += ["set {0}margin at screen {1:.4f}".format(side, at) for side, at in zip("lrbt", sides)]
        self.lines.append(f'set title "{name}" noenhanced offset 0,-0.5')
        return column

    def legend(self, entries):
        """entries: (style, words); a panel of nothing but its key."""
        x = 1 - (self.right - 15) / self.width
        keys = ", ".join(f"NaN with {style} title '{words}'" for style, words in entries)
        self.lines += ["unset title", "unset xlabel", "unset ylabel", "unset tics", "unset border", "unset grid", "unset logscale",
                       "set lmargin at screen 0", "set rmargin at screen 1", "set bmargin at screen 0", "set tmargin at screen 1",
                       "set xrange [0:1]", "set yrange [0:1]",
                       f"set key at screen {x:.4f}, screen {1 - self.top / self.height:.4f} left top Left reverse noenhanced samplen 2.5",
                       f"plot {keys}"]

    def text(self):
        return "\n".join(self.lines + ["unset multiplot"]) + "\n"


def put(scratch, name, rows):
    path = pathlib.Path(scratch) / f"{name}.dat"
    path.write_text("".join(" ".join(f"{v:.6g}" for v in row) + "\n" for row in rows))
    return path


# Referenced guest pages over time ------------------------------------------------------------------------------------
def over_time(folder, trace, limit, policies):
    """{policy: (touches, pages) of each sample}. By hand: the file has millions of rows."""
    path = pathlib.Path(folder) / "mapped.csv"
    if not path.is_file():
        refuse(f"no {path}: run reclaim_study with --out {folder} first")
    out = collections.defaultdict(list)
    with path.open() as f:
        next(f, None)
        for line in f:
            name, arch, policy, of, touches, pages = line.split(",")
            if policy in policies and name == trace[0] and arch == trace[1] and int(of) == limit:
                out[policy].append((int(touches), int(pages)))
    return out


def thinned(samples):
    """(touches in millions, mean, least, most) of some DRAWN stretches; 1 at least, for the logarithm."""
    step = max(1, math.ceil(len(samples) / DRAWN))
    for i in range(0, len(samples), step):
        some = samples[i:i + step]
        pages = [p for _, p in some]
        yield sum(t for t, _ in some) / len(some) / 1e6, max(1, sum(pages) / len(pages)), max(1, min(pages)), max(pages)


def mapped(options, rows, out):
    cells = {(r["trace"], r["arch"], int(r["limit"])) for r in rows}
    wanted = [c for c in sorted(cells) if c[0] == options.trace] or sorted(cells)
    name, arch, limit = min(wanted, key=lambda c: (c[2] != options.limit, c[1] != "ept", c[2]))
    curves = over_time(options.folder, (name, arch), limit, OVER_TIME)
    before, plan = options.before or (options.folder, "each by its own plan")
    pair = over_time(before, (name, arch), limit, BEFORE_AFTER)
    if not curves and not pair:
        print("reclaim_mapped: not drawn, mapped.csv has none of its policies")
        return False
    columns = bool(curves) + bool(pair)
    width, height = 460 * columns + 230, 450
    end = max(samples[-1][0] for samples in [*curves.values(), *pair.values()]) / 1e6

    def script(scratch, terminal, output):
        p = Panels(terminal, output, width, height, columns, 1, 75, 240, top=48, gap_x=90)
        p.lines += ["set xlabel 'millions of touches'", "set ylabel 'referenced guest pages'", f"set xrange [0:{end:.6g}]",
                    "set logscale y", "set format y '%.0s %c'"]
        means, bands = [], []
        for policy in known(pair):
            dat = put(scratch, f"pair_{policy}", thinned(pair[policy]))
            bands.append(f"'{dat}' using 1:3:4 with filledcurves fs transparent solid 0.3 noborder lc rgb '{POLICIES[policy][0]}'")
            means.append(f"'{dat}' using 1:2 with {line(policy)}")
        drawn = [f"'{put(scratch, f'time_{q}', (row[:2] for row in thinned(curves[q])))}' with {line(q)}" for q in known(curves)]
        panels = [(f"{plan}: mean, least, most", bands + means), ("each policy by its own plan: mean", drawn)]
        for n, (words, shown) in enumerate(panel for panel in panels if panel[1]):
            p.panel(n, f"{title(name, arch)}, limit {limit}\\n{words}")
            p.lines.append("plot " + ", ".join(shown))
        p.legend([(line(q), q) for q in known({*pair, *curves})])
        return p.text()

    plots.draw("reclaim_mapped", script, out, width, height, "pngcairo")
    return True


def ytics(low, most):
    """Of a logarithmic axis: enough of them to read it by."""
    steps = (1,) if most / low > 300 else (1, 3) if most / low > 30 else (1, 2, 5) if most / low > 6 else (1, 1.5, 2, 3, 4, 5, 7)
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(most)) + 1)
    return "set ytics (" + ", ".join(f"{s * 10.0 ** n:g}" for n in tens for s in steps) + ")"


def grid(cells):
    columns = 1 if len(cells) == 1 else 2 if len(cells) <= 4 else 3
    return columns, math.ceil(len(cells) / columns)


# Refaults against the limit ------------------------------------------------------------------------------------------
def short(n):
    return f"{n / 1e6:.3g} M" if n >= 1e6 else f"{n / 1e3:.3g} k" if n >= 1e3 else f"{n:.0f}"


def between(points):
    """The points and some on the lines between them, which are straight on a logarithmic axis."""
    for (x, y), (to_x, to_y) in zip(points, points[1:]):
        for part in range(50):
            yield x + (to_x - x) * part / 50, y * (to_y / y) ** (part / 50)
    yield from points[-1:]


def refaults(options, rows, out):
    """Over FIFO's where the table has them; no refaults at all count as one, as in the program's own table."""
    cells = list(dict.fromkeys((r["trace"], r["arch"]) for r in rows))
    limits = sorted({int(r["limit"]) for r in rows})
    names = known({r["policy"] for r in rows})
    at = {(r["trace"], r["arch"], r["policy"], int(r["limit"])): numbers(r, "refaults")[0] for r in rows}
    relative = any(k[2] == "fifo" for k in at)
    columns, high = grid(cells)
    width, height = 322 * columns + 340, 250 * high + 80

    def curves(trace, arch):
        out = collections.defaultdict(list)
        for policy in [*names, BOUND]:
            for i, limit in enumerate(limits):
                n, fifo = at.get((trace, arch, policy, limit)), at.get((trace, arch, "fifo", limit), 0)
                if n is not None and (fifo or not relative):
                    out[policy].append((i, max(n, 1) / (fifo if relative else 1)))
        return out

    def tic(trace, arch, limit):
        n = at.get((trace, arch, "fifo", limit))
        return f"{limit}" + (f"\\n{short(n)}" if n is not None else "")

    def script(scratch, terminal, output):
        p = Panels(terminal, output, width, height, columns, high, 85, 240, bottom=70, gap_x=62, gap_y=80)
        p.lines += ["set logscale y", "set format y '%g'", f"set xrange [-0.15:{len(limits) - 0.85}]"]
        for n, (trace, arch) in enumerate(cells):
            column = p.panel(n, title(trace, arch))
            words = "refaults over those of fifo" if relative else "refaults"
            p.lines.append(f"set ylabel '{words}'" if column == 0 else "unset ylabel")
            words = "limit, shadow pages" + ("; refaults of fifo" if relative else "")
            p.lines.append(f"set xlabel '{words}' offset 0,-0.9" if n + columns >= len(cells) else "unset xlabel")
            p.lines.append("set xtics (" + ", ".join(f'"{tic(trace, arch, limit)}" {i}' for i, limit in enumerate(limits)) + ")")
            curve = curves(trace, arch)
            # The scale is that of the policies which have refaults: who has none leaves the picture, as the bound may.
            values = [v for q in names for i, v in curve[q] if at[trace, arch, q, limits[i]]] or [1]
            low, most = min(values) / 1.6, max(values) * 1.25
            p.lines += [f"set yrange [{low:.4g}:{most:.4g}]", ytics(low, most)]
            shown = []
            if curve[BOUND]:
                dat = put(scratch, f"{n}_floor", [(x, max(y, low)) for x, y in between(curve[BOUND])])
                shown.append(f"'{dat}' using 1:2:({low:.4g}) with {FLOOR}")
                shown.append(f"'{put(scratch, f'{n}_bound', curve[BOUND])}' with {BOUND_LINE}")
            for policy in sorted(names, key=lambda q: q == options.default):  # it lies on top
                if curve[policy]:
                    shown.append(f"'{put(scratch, f'{n}_{policy}', curve[policy])}' with {marked_line(policy)}")
            p.lines.append("plot " + (", ".join(shown) or "NaN"))
        legend = [(marked_line(q), q) for q in names]
        if any(k[2] == BOUND for k in at):
            legend += [(BOUND_LINE, BOUND), (FLOOR, "out of reach")]
        p.legend(legend)
        return p.text()

    plots.draw("reclaim_refaults", script, out, width, height, "pngcairo")
    return True


# Sawtooth ------------------------------------------------------------------------------------------------------------
def sawtooth(options, rows, out):
    at = {(r["trace"], r["arch"], r["policy"], int(r["limit"])): numbers(r, "sawtooth")[0] * 100 for r in rows}
    at = {k: v for k, v in at.items() if v > 0}  # not nan, not 0
    if not at:
        print("reclaim_sawtooth: not drawn, no policy has one")
        return False
    cells = list(dict.fromkeys(k[:2] for k in at))
    limits = sorted({k[3] for k in at})
    names = known({k[2] for k in at})
    columns, high = grid(cells)
    width, height = 270 * columns + 320, (17 * len(names) + 70) * high + 60
    least, most = min(at.values()) / 1.3, max(at.values()) * 1.3

    def script(scratch, terminal, output):
        p = Panels(terminal, output, width, height, columns, high, 170, 140)
        p.lines += ["set logscale x", "set format x '%g %%'", f"set xrange [{least:.4g}:{most:.4g}]", f"set yrange [{len(names) - 0.4}:-0.6]",
                    GRID + " xtics"]
        for n, (trace, arch) in enumerate(cells):
            column = p.panel(n, title(trace, arch))
            tics = ", ".join(f"'{q if column == 0 else ''}' {i}" for i, q in enumerate(names))
            p.lines.append(f"set ytics ({tics}) noenhanced")
            p.lines.append("set xlabel 'change in 1000 touches, of the mean'" if n + columns >= len(cells) else "unset xlabel")
            shown = []
            for i, limit in enumerate(limits):
                points = [(at[trace, arch, q, limit], j) for j, q in enumerate(names) if (trace, arch, q, limit) in at]
                if points:
                    shown.append(f"'{put(scratch, f'{n}_{limit}', points)}' with points pt {POINTS[i % 6]} ps 1 lc rgb '{LIMITS[i % 6]}'")
            p.lines.append("plot " + (", ".join(shown) or "NaN"))
        p.legend([(f"points pt {POINTS[i % 6]} ps 1 lc rgb '{LIMITS[i % 6]}'", f"limit {limit}") for i, limit in enumerate(limits)])
        return p.text()

    plots.draw("reclaim_sawtooth", script, out, width, height, "pngcairo")
    return True


# Parameters ----------------------------------------------------------------------------------------------------------
def sensitivity(options, rows, out):
    if not (pathlib.Path(options.folder) / "sensitivity.csv").is_file():
        print(f"reclaim_sensitivity: not drawn, no {options.folder}/sensitivity.csv")
        return False
    curves = collections.defaultdict(list)
    for r in read(options.folder, "sensitivity.csv"):
        numbers(r, "geomean", "worst")
        curves[r["parameter"]].append(r)
    if not curves:
        refuse(f"{options.folder}/sensitivity.csv has no rows")
    columns, high = grid(curves)
    width, height = 310 * columns + 285, 220 * high + 80

    def default(of):
        """The row that is marked, else the one that every parameter has, as they all start from the default."""
        same = set.intersection(*({(r["geomean"], r["worst"]) for r in c} for c in curves.values())) if len(curves) > 1 else ()
        found = [i for i, r in enumerate(of) if r.get("default") in ("1", "true", "yes")]
        found = found or [i for i, r in enumerate(of) if (r["geomean"], r["worst"]) in same]
        return found if len(found) == 1 else []

    shown = (("geomean", "geometric mean", "#0072b2", 7, 1), ("worst", "worst cell", "#d55e00", 5, 2))

    def script(scratch, terminal, output):
        p = Panels(terminal, output, width, height, columns, high, 75, 190, gap_x=50)
        p.lines += ["set logscale y", "set format y '%g'"]
        for n, (name, of) in enumerate(curves.items()):
            column = p.panel(n, name)
            values = [v for r in of for v in numbers(r, "geomean", "worst") if v > 0] or [1]
            low, most = min(values) / 1.2, max(values) * 1.2
            p.lines += [f"set xrange [-0.3:{len(of) - 0.7}]", f"set yrange [{low:.4g}:{most:.4g}]", ytics(low, most),
                        "set xtics (" + ", ".join(f"'{r['value']}' {i}" for i, r in enumerate(of)) + ")",
                        "set ylabel 'refaults over those of fifo'" if column == 0 else "unset ylabel"]
            plot = []
            for key, _, colour, point, dash in shown:
                dat = put(scratch, f"{n}_{key}", [(i, *numbers(r, key)) for i, r in enumerate(of)])
                plot.append(f"'{dat}' with linespoints lw 1.5 pt {point} ps 0.8 dt {dash} lc rgb '{colour}'")
                if default(of):
                    dat = put(scratch, f"{n}_{key}_default", [(i, *numbers(of[i], key)) for i in default(of)])
                    plot.append(f"'{dat}' with points pt 6 ps 2.2 lw 1.5 lc rgb '#000000'")
            p.lines.append("plot " + ", ".join(plot))
        legend = [(f"linespoints lw 1.5 pt {point} ps 0.8 dt {dash} lc rgb '{colour}'", words) for _, words, colour, point, dash in shown]
        p.legend(legend + [("points pt 6 ps 2.2 lw 1.5 lc rgb '#000000'", "default")])
        return p.text()

    plots.draw("reclaim_sensitivity", script, out, width, height, "pngcairo")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="OUTDIR", help="what reclaim_study --out wrote")
    parser.add_argument("out", metavar="PLOTDIR", nargs="?", help="where the pictures go (OUTDIR)")
    parser.add_argument("--before", nargs=2, metavar=("DIR", "PLAN"), help="the output of a run with --plan PLAN, for the left of mapped")
    parser.add_argument("--trace", default="db-gpa", help="trace of mapped (db-gpa)")
    parser.add_argument("--limit", type=int, default=64, help="limit of mapped (64)")
    options = parser.parse_args()
    options.default = "greedy-dual-frequency"
    rows = list(read(options.folder, "study.csv"))
    if not rows:
        refuse(f"{options.folder}/study.csv has no rows")
    if missing := {"trace", "arch", "policy", "limit", "refaults", "sawtooth"} - rows[0].keys():
        refuse(f"{options.folder}/study.csv has no column {', '.join(sorted(missing))}")
    for r in rows:
        numbers(r, "limit", "refaults", "sawtooth")
    out = options.out or options.folder
    for draw in (mapped, refaults, sawtooth, sensitivity):
        if draw(options, rows, out):
            print(f"{out}/reclaim_{draw.__name__}.{{svg,png}}")


if __name__ == "__main__":
    main()
