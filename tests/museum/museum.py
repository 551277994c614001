#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""The museum of public shadow-MMU bugs. See README.md beside this file and docs/MUSEUM.md.

museum.py run [WORDS] [--jobs N]   plants the exhibits whose id, system or plant contains one of the words (all without)
museum.py record [--jobs N]        plants all, writes down what the tests say (record.json), and the page anew
museum.py page                     writes docs/MUSEUM.md from exhibits.txt and record.json
museum.py check                    demands that the rules of exhibits.txt hold, and that the page is up to date
"""
import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "tests" / "planted"))
import planting  # noqa: E402

PAGE = ROOT / "docs" / "MUSEUM.md"
RECORD = HERE / "record.json"
GUESTS = HERE / "guests.json"
LEAST, LEAST_PLANTED = 45, 30  # exhibits; those of them that are planted
KEYS = {"system", "year", "title", "broke", "here", "plant", "forbidden"}


@dataclasses.dataclass
class Exhibit:
    id: str
    line: int
    system: str = ""
    year: str = ""
    title: str = ""      # what its own project calls it, where it has no number that says enough
    broke: str = ""      # one sentence: what broke, and for whom
    here: str = ""       # what the same mistake is in this library; or which type forbids it
    plant: str = ""      # the planted bug
    forbidden: str = ""  # the compile_fail case


def parse(text):
    found, key = [], None
    for n, line in enumerate(text.splitlines(), 1):
        if line.startswith("== "):
            found.append(Exhibit(line[3:].strip(), n))
            key = None
        elif not line.strip() or line.startswith("#"):
            continue
        elif line[0].isspace() and key:
            setattr(found[-1], key, getattr(found[-1], key) + " " + line.strip())
        else:
            key, _, value = line.partition(" ")
            if key not in KEYS or not found:
                sys.exit(f"exhibits.txt:{n}: unknown key '{key}'")
            if getattr(found[-1], key):
                sys.exit(f"exhibits.txt:{n}: '{key}' twice")
            setattr(found[-1], key, value.strip())
    return found


def planted_bugs():
    """{name: planted bug}"""
    return {b.name: b for b in planting.all_bugs()}


def faults(exhibits, bugs):
    """Which rules do not hold."""
    wrong = []
    for e in exhibits:
        say = lambda what: wrong.append(f"exhibits.txt:{e.line}: {e.id}: {what}")
        for key in ("system", "year", "broke", "here"):
            if not getattr(e, key):
                say(f"has no '{key}'")
        if bool(e.plant) == bool(e.forbidden):
            say("needs a plant or a compile_fail case, not both")
        if not re.fullmatch(r"20[0-2]\d", e.year):
            say(f"'{e.year}' is no year")
        if e.plant and e.plant not in bugs:
            say(f"no planted bug is called {e.plant}")
        if e.forbidden and not (ROOT / "tests/compile_fail" / f"{e.forbidden}.cpp").is_file():
            say(f"no compile_fail case is called {e.forbidden}")
    for key in ("id", "plant", "forbidden"):
        of = [getattr(e, key) for e in exhibits if getattr(e, key)]
        wrong += [f"exhibits.txt: {key} {v} serves two" for v in sorted({v for v in of if of.count(v) > 1})]
    planted = sum(bool(e.plant) for e in exhibits)
    if len(exhibits) < LEAST or planted < LEAST_PLANTED:
        wrong.append(f"exhibits.txt: {len(exhibits)} exhibits, {planted} planted, fewer than {LEAST} and {LEAST_PLANTED}")
    return wrong


def plant(exhibits, jobs):
    """{plant: [what caught it]}, and the runner's exit status."""
    names = [e.plant for e in exhibits if e.plant]
    if not names:
        return {}, 0
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "says.json"
        status = subprocess.run([ROOT / "tests/planted/run", "--jobs", str(jobs), "--names", ",".join(names),
                                 "--says", out, "--work", ROOT / "build" / "museum"]).returncode
        told = {}
        for t in json.loads(out.read_text()) if out.exists() else []:
            told.setdefault(t["bug"], []).append(t)
    return told, status


def refuse(exhibits, compiler):
    """{compile_fail case: what the compiler refuses it with, or None where the case does not hold}."""
    answers = {}
    for e in exhibits:
        if not e.forbidden:
            continue
        source = ROOT / "tests/compile_fail" / f"{e.forbidden}.cpp"
        r = subprocess.run(["cmake", "-D", f"COMPILER={compiler}", "-D", f"PCH={ROOT}/build/museum/none", "-D",
                            f"SOURCE={source}", "-D", f"INCLUDE={ROOT}/include", "-P",
                            str(ROOT / "tests/compile_fail/check.cmake")], capture_output=True, text=True)
        m = re.search(r"refused as it should be: (.*)", r.stdout + r.stderr)
        answers[e.forbidden] = m[1].strip() if r.returncode == 0 and m else None
        if answers[e.forbidden] is None:
            print(r.stdout + r.stderr)
    return answers


def run(exhibits, bugs, jobs, verbose):
    """Returns (what was seen of each exhibit, whether all is well)."""
    told, status = plant(exhibits, jobs)
    refused = refuse(exhibits, os.environ.get("CXX", "g++"))
    seen, well = {}, status == 0
    print()
    for e in exhibits:
        if e.plant:
            of = told.get(e.plant, [])
            caught = bool(of) and all(t["verdict"] == "caught" for t in of)
            well = well and caught
            by = of[0] if of else {"test": "", "case": "", "says": ""}
            seen[e.id] = {"test": by["test"], "case": by["case"], "says": by["says"]}
            print(f"{e.id}  {e.system}, {e.year}: {'caught' if caught else 'NOT CAUGHT'}")
            print(f"    broke    {e.broke}")
            print(f"    planted  {e.plant} in {bugs[e.plant].file}: {bugs[e.plant].why}")
            print(f"    test     {by['test']}: {by['case']}")
            print(f"    says     {by['says'][:300]}")
            if verbose:
                for old, new in bugs[e.plant].edits:
                    print(textwrap.indent(f"--- old\n{old}\n--- new\n{new}", "    | "))
        else:
            well = well and refused[e.forbidden] is not None
            seen[e.id] = {"says": refused[e.forbidden] or ""}
            print(f"{e.id}  {e.system}, {e.year}: {'cannot be written' if refused[e.forbidden] else 'COMPILES'}")
            print(f"    broke    {e.broke}")
            print(f"    forbids  tests/compile_fail/{e.forbidden}.cpp: {refused[e.forbidden]}")
    planted = sum(bool(e.plant) for e in exhibits)
    print(f"\n{len(exhibits)} exhibits: {planted} planted, {len(exhibits) - planted} that cannot be written")
    return seen, well


def code(words, most=220):
    words = words if len(words) <= most else words[:most].rsplit(" ", 1)[0] + " ..."
    return f"`{words.replace('`', chr(39))}`"


def wrapped(text, indent=""):
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page(exhibits, bugs, record, guests):
    planted = [e for e in exhibits if e.plant]
    seen_by = {e.plant: guests[e.plant] for e in planted if e.plant in guests}
    head = (HERE / "head.md").read_text().format(
        exhibits=len(exhibits), planted=len(planted), forbidden=len(exhibits) - len(planted),
        commits=", ".join(sorted({g["commit"] for g in seen_by.values()})), measured=len(seen_by),
        noticed=sum(g["noticed"] for g in seen_by.values()),
        never=sum(g["says"] == "never runs it" for g in seen_by.values()))
    out = ["\n\n".join(wrapped(p) for p in head.strip().split("\n\n"))]
    item = lambda text: out.append(wrapped("- " + text, "  "))
    for system in dict.fromkeys(e.system for e in exhibits):
        out.append(f"\n## {system}\n")
        for e in (e for e in exhibits if e.system == system):
            seen = record.get(e.id, {})
            out.append(wrapped(f"**{e.id}** ({e.year}{', ' + e.title if e.title else ''}). {e.broke}"))
            item(f"Here: {e.here}")
            if e.plant:
                bug = bugs[e.plant]
                item(f"Planted: `{e.plant}` in `{bug.file}` (`tests/planted/bugs/{bug.source}`).")
                item(f"Caught by `tests/{seen.get('test', '')}`, \"{seen.get('case', '')}\", which says "
                     f"{code(seen.get('says', ''))}.")
                if e.plant in seen_by:
                    item(f"The example's guest: {seen_by[e.plant]['says']}.")
            else:
                item(f"Cannot be written: `tests/compile_fail/{e.forbidden}.cpp`; the compiler says "
                     f"{code(seen.get('says', ''))}.")
            out.append("")
    return "\n".join(out).rstrip() + "\n"


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else {}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["run", "record", "page", "check"])
    p.add_argument("words", nargs="*")
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    args = p.parse_args()
    exhibits, bugs = parse((HERE / "exhibits.txt").read_text()), planted_bugs()
    if wrong := faults(exhibits, bugs):
        print("\n".join(wrong))
        return 1
    text = lambda: page(exhibits, bugs, read_json(RECORD), read_json(GUESTS))
    if args.what == "check":
        unseen = [e.id for e in exhibits if not read_json(RECORD).get(e.id, {}).get("says")]
        if unseen:
            print("record.json knows nothing of", ", ".join(unseen), "(./dev museum --record)")
        stale = PAGE.read_text() != text() if PAGE.exists() else True
        if stale:
            print("docs/MUSEUM.md is not what exhibits.txt and record.json say (tests/museum/museum.py page)")
        return 1 if unseen or stale else 0
    if args.what in ("run", "record"):
        low = [w.lower() for w in args.words]
        chosen = [e for e in exhibits if not low or any(w in f"{e.id} {e.system} {e.plant}".lower() for w in low)]
        if not chosen:
            sys.exit("no exhibit's id, system or plant contains " + ", ".join(args.words))
        seen, well = run(chosen, bugs, args.jobs, verbose=len(chosen) <= 3)
        if args.what == "record" and well and not args.words:
            RECORD.write_text(json.dumps(seen, indent=1) + "\n")
        if args.what == "run" or not well:
            return 0 if well else 1
    PAGE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
