# SPDX-License-Identifier: BSL-1.0
"""What the drawings of this folder share."""
import pathlib
import subprocess
import sys
import tempfile


def size(mib):
    return f"{mib} MiB" if mib < 1024 else f"{mib // 1024} GiB"


def main(name, rows, table, script):
    """rows(path) yields (key, row) of bench_micro's JSON; table(data) prints them; script(data, folder, terminal, output)
    is what gnuplot draws NAME.svg and NAME.png from."""
    args = [a for a in sys.argv[1:] if a != "--table"]
    data = dict(rows(args[0]))
    if "--table" in sys.argv:
        table(data)
        return
    out = pathlib.Path(args[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for terminal, kind in (("svg size 1100,400 font 'sans,12' background '#ffffff'", "svg"),
                               ("png size 1100,400 font 'DejaVu Sans,10'", "png")):
            text = script(data, folder, terminal, out / f"{name}.{kind}")
            subprocess.run(["gnuplot", "-"], input=text, text=True, check=True)
