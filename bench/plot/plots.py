# SPDX-License-Identifier: BSL-1.0
"""What the drawings of this folder share."""
import pathlib
import subprocess
import sys
import tempfile


def size(mib):
    return f"{mib} MiB" if mib < 1024 else f"{mib // 1024} GiB"


def draw(name, script, folder, width=1100, height=400, png="png"):
    """Draws NAME.svg and NAME.png into the folder from what script(scratch folder, terminal, output) gives gnuplot.
    png: gnuplot's terminal for it; pngcairo knows dashes."""
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for terminal, kind in ((f"svg size {width},{height} font 'sans,12' background '#ffffff'", "svg"),
                               (f"{png} size {width},{height} font 'DejaVu Sans,10'", "png")):
            text = script(scratch, terminal, out / f"{name}.{kind}")
            subprocess.run(["gnuplot", "-"], input=text, text=True, check=True)


def main(name, rows, table, script):
    """rows(path) yields (key, row) of bench_micro's JSON; table(data) prints them; script(data, folder, terminal, output)
    is what gnuplot draws NAME.svg and NAME.png from."""
    args = [a for a in sys.argv[1:] if a != "--table"]
    data = dict(rows(args[0]))
    if "--table" in sys.argv:
        table(data)
        return
    draw(name, lambda *where: script(data, *where), args[1])
