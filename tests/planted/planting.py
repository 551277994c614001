# SPDX-License-Identifier: BSL-1.0
"""Plants the bugs of bugs/*.txt into copies of headers and demands that the named tests fail. See README.md.

The museum (tests/museum) and the mutants (mutate) plant by this too: parse() and all_bugs() read bugs, a Runner lays
changed headers into a folder that comes first on the include path, compiles a test with them and runs it.
"""
import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import choice

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "tools"))
import join  # noqa: E402

TESTS = ROOT / "tests"
UNIT_OF = {file: name for name, files in join.units(TESTS).items() for file in files}
PATIENCE = 4  # how many times its timeout a test may take by the clock
UNKNOWN_CHOICE = 99  # the exit status of a binary that does not have the bug: see choice.py
FLAGS = ["-std=c++20", "-g0", "-w", "-pthread"]
LONG = ("explore/", "random/")  # tests that run long enough to be worth optimising
OF_SUITE = {"orders": ("-fsanitize=thread", "-g1")}  # flags without which a suite says nothing
QUICK = "clang++"  # compiles what is not optimised in a good half of g++'s time, where it is installed


@dataclasses.dataclass
class Bug:
    name: str
    source: str
    why: str = ""
    file: str = ""
    timeout: float = 60
    tests: list = dataclasses.field(default_factory=list)  # (file below tests/, doctest arguments)
    edits: list = dataclasses.field(default_factory=list)  # (old, new)


def parse(path):
    bugs, block = [], None
    for n, line in enumerate(path.read_text().splitlines(), 1):
        fail = lambda what: sys.exit(f"{path}:{n}: {what}")
        if line.startswith("== "):
            bugs.append(Bug(line[3:].strip(), path.name))
            block = None
        elif not bugs:
            if line.strip() and not line.startswith("#"):
                fail("text before the first '== name'")
        elif line == "--- old":
            block = []
            bugs[-1].edits.append([block, None])
        elif line == "--- new":
            if not bugs[-1].edits or bugs[-1].edits[-1][1] is not None:
                fail("'--- new' without '--- old'")
            block = []
            bugs[-1].edits[-1][1] = block
        elif block is not None:
            block.append(line)
        elif line.strip() and not line.startswith("#"):
            key, _, value = line.partition(" ")
            value = value.strip()
            if key == "test":
                bugs[-1].tests.append((value.split()[0], value.split()[1:]))
            elif key in ("why", "file"):
                setattr(bugs[-1], key, value)
            elif key == "timeout":
                bugs[-1].timeout = float(value)
            else:
                fail(f"unknown key '{key}'")
    for b in bugs:
        if not (b.file and b.tests and b.edits and all(new is not None for _, new in b.edits)):
            sys.exit(f"{path}: {b.name}: needs file, test, old and new")
        b.edits = [("\n".join(old).rstrip(), "\n".join(new).rstrip()) for old, new in b.edits]
    return bugs


def all_bugs(folder=TESTS / "planted" / "bugs"):
    return [b for path in sorted(folder.glob("*.txt")) for b in parse(path)]


class Runner:
    def __init__(self, args):
        self.args = args
        self.work = args.work
        self.ccache = [shutil.which("ccache")] if shutil.which("ccache") else []
        self.quick = args.compiler or (QUICK if shutil.which(QUICK) else "g++")
        self.compiler = args.compiler or "g++"
        self.main = self.work / "main.o"

    def compile(self, source, target, level, *flags):
        """Returns None or what the compiler said."""
        compiler = self.quick if level == "-O0" else self.compiler  # a sanitizer's library is that of one compiler
        command = [*self.ccache, compiler, *FLAGS, level, *flags, f"-I{ROOT}/include", f"-I{ROOT}/tests", "-c",
                   str(source), "-o", str(target)]
        r = subprocess.run(command, capture_output=True, text=True, cwd=self.work)
        return r.stderr or "the compiler failed" if r.returncode else None

    def source(self, where, unit):
        """unit: a test file, or the name of what is joined, which is written into `where`. Returns (file, the first
        test of it)."""
        files = join.units(TESTS).get(unit)
        if not files:
            return TESTS / unit, unit
        where.mkdir(parents=True, exist_ok=True)
        source = where / f"{unit}.cpp"
        source.write_text(join.unit(TESTS, files))
        return source, files[0]

    def build(self, where, unit, *flags):
        """unit: as for source(). Returns (binary, None) or (None, what went wrong)."""
        where.mkdir(parents=True, exist_ok=True)
        stem = unit.replace("/", "_").removesuffix(".cpp")
        object_file, binary = where / f"{stem}.o", where / stem
        source, first = self.source(where, unit)
        flags = (*flags, *OF_SUITE.get(first.split("/")[0], ()))
        sanitizers = [f for f in flags if f.startswith("-fsanitize")]
        level = "-O1" if sanitizers or first.startswith(LONG) else "-O0"
        if error := self.compile(source, object_file, level, *flags):
            return None, error
        command = [self.compiler, "-pthread", *sanitizers, str(object_file), str(self.main), "-o", str(binary)]
        r = subprocess.run(command, capture_output=True, text=True)
        return (None, r.stderr) if r.returncode else (binary, None)

    def execute(self, binary, test, arguments, timeout, choice="", extra=None):
        """test: its file, or "" for all that are joined in the binary; extra: more of the environment. Returns
        (verdict, detail, reached): passed, failed, hung or broken; whether the chosen code was run."""
        where = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SHADOWMMU_")}
        if choice:
            environment["SHADOWMMU_PLANTED"] = choice
        environment.update(extra or {})
        command = [str(binary), "--no-colors=1", "--abort-after=1", *arguments]
        if test:
            command.append(f"--source-file=*/{test}")
        process = subprocess.Popen(command, cwd=where, text=True, errors="replace", env=environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Time of the CPU, so that a busy machine hangs no test; what waits without running is given up later.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (math.ceil(timeout), math.ceil(timeout) + 1))
        try:
            out, err = process.communicate(timeout=PATIENCE * timeout)
            code = None if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL) else process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            code = None
        shutil.rmtree(where, ignore_errors=True)
        reached = "planted: reached" in err
        if code is None:
            return "hung", f"no end after {timeout:.0f} s", reached
        if code == UNKNOWN_CHOICE and choice:
            return "broken", err[-500:], reached
        if code == 0 and "test cases: 0 |" in out:
            return "broken", f"{test}: no test case matches {' '.join(arguments)}", reached
        return ("passed" if code == 0 else "failed"), out + err, reached

    def mutated(self, bug):
        """Returns (text with the bug, None) or (None, what went wrong)."""
        header = ROOT / "include" / "shadowmmu" / bug.file
        if not header.is_file():
            return None, f"no header {bug.file}"
        text = header.read_text()
        for old, new in bug.edits:
            if (n := text.count(old)) != 1:
                return None, f"the old text occurs {n} times in {bug.file}:\n{old}"
            text = text.replace(old, new)
        return text, None

    def lay(self, bug, overlay):
        """Effects: the header with this bug lies in the overlay. Returns None or what went wrong."""
        text, error = self.mutated(bug)
        if not error:
            put(overlay / "shadowmmu" / bug.file, text)
        return error

    def plant_alone(self, bug, test, arguments):
        """Compiles this bug by itself. Returns (verdict of the test, detail)."""
        where = self.work / "alone" / f"{bug.name}-{test.replace('/', '_')}"
        if error := self.lay(bug, where / "include"):
            return "broken", error
        binary, error = self.build(where, test, f"-I{where}/include")
        if error:
            return "broken", "\n".join(error.splitlines()[:8])
        return self.execute(binary, test, arguments, bug.timeout)[:2]

    def build_group(self, unit, bugs, *flags):
        """One binary with all of these bugs that can be chosen when it runs. Returns (binary, names in it, error)."""
        where = self.work / "groups" / unit.replace("/", "_").removesuffix(".cpp")
        return self.together(bugs, where / "include", choice.choice_header, lambda: self.build(
            where, unit, f"-I{where}/include", "-include", choice.CHOICE_HEADER, *flags))

    def together(self, bugs, overlay, header, build):
        """Lays headers with all of these bugs that can be chosen into a folder, the choice among them in header(names),
        and calls build(). Returns (what it returned, names of the bugs in it, error)."""
        number = {b.name: n for n, b in enumerate(bugs, 1)}
        fit = []
        for b in bugs:
            text, error = self.mutated(b)
            if error is None and choice.changed_bodies((ROOT / "include/shadowmmu" / b.file).read_text(), text):
                fit.append(b)
        while True:
            shutil.rmtree(overlay, ignore_errors=True)
            lines = {}
            for file in sorted({b.file for b in fit}):
                variants = {number[b.name]: self.mutated(b)[0] for b in fit if b.file == file}
                text, lines[file] = choice.merge((ROOT / "include/shadowmmu" / file).read_text(), variants)
                put(overlay / "shadowmmu" / file, text)
            put(overlay / choice.CHOICE_HEADER, header({number[b.name]: b.name for b in fit}))
            binary, error = build()
            if not error:
                return binary, {b.name for b in fit}, None
            # What does not compile beside the others is compiled alone: those that the errors name, else all.
            named = {(m[1], int(m[2])) for m in re.finditer(r"include/shadowmmu/([\w/.]+):(\d+):", error)}
            guilty = {n for file, line in named for n, spans in lines.get(file, {}).items()
                      if any(first <= line <= last for first, last in spans)}
            if not fit:
                return None, set(), error
            fit = [b for b in fit if number[b.name] not in guilty] if guilty else []


def put(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


FAILURE = re.compile(r"^[^\n]*?:\d+: (?:FATAL )?ERROR: (.*)\n((?:[ \t]+\S.*\n)*)", re.M)


def says(verdict, detail):
    """What a test said first of the bug that it caught: (test case, its words)."""
    case = re.search(r"^TEST CASE:  (.*)$", detail, re.M)
    found = FAILURE.search(detail)
    # The assert handler's, or a sanitizer's.
    lines = [line for line in detail.splitlines() if line.startswith(("shadowmmu: ", "WARNING: ThreadSanitizer"))]
    if verdict == "hung":
        words = "does not end"
    elif found and "CRASHED" not in found[1]:
        words = " ".join([found[1], *(line.strip() for line in found[2].splitlines())])
    else:
        words = lines[-1] if lines else found[1] if found else "ends without a word"
    return (case[1] if case else ""), " ".join(words.split())


def verdict_of(bug, results):
    """results: [(verdict of the test, detail, test, arguments)], one for each test of the bug."""
    for verdict, detail, test, arguments in results:
        if verdict == "broken":
            return "broken", detail
    for verdict, detail, test, arguments in results:
        if verdict == "passed":
            return "ESCAPED", f"{test} {' '.join(arguments)} passes with this bug: {bug.why}"
    return "caught", "hung" if any(r[0] == "hung" for r in results) else ""


def run_all(runner, bugs, jobs, alone, report):
    """Calls report(bug, verdict, detail, how) for each bug as it is decided; returns how many tests fail as they are."""
    units = {}  # joined tests are one unit where bugs of several of them are tried
    for b in bugs:
        for test, arguments in b.tests:
            units.setdefault(UNIT_OF.get(test, test), []).append((b, test, arguments))
    for unit in [u for u, of in units.items() if u in UNIT_OF.values() and len({t for _, t, _ in of}) == 1]:
        only = units.pop(unit)
        units[only[0][1]] = only
    groups = {}  # unit -> (binary, names in it)
    results = {b.name: {} for b in bugs}
    fails = 0
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    pending = {}
    # The longest to compile first: most bugs, most code.
    for unit in sorted(units, key=lambda u: -len(units[u])):
        in_group = [] if alone else list({b.name: b for b, _, _ in units[unit]}.values())
        pending[pool.submit(runner.build_group, unit, in_group)] = ("group", unit, None, None)

    def decide(bug, test, arguments, verdict, detail, how):
        of = results[bug.name]
        of[(test, tuple(arguments))] = (verdict, detail, test, arguments, how)
        if len(of) == len({(t, tuple(a)) for t, a in bug.tests}):
            how = "alone" if any(r[4] == "alone" for r in of.values()) else "chosen"
            report(bug, *verdict_of(bug, [r[:4] for r in of.values()]), how, list(of.values()))

    try:
        while pending:
            done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                what, test, bug, arguments = pending.pop(future)
                if what == "group":
                    unit = test
                    binary, names, error = future.result()
                    if error:
                        print(f"as it is    {unit} does not compile\n" + "\n".join(error.splitlines()[:8]), flush=True)
                        fails += 1
                        for b, t, a in units[unit]:
                            decide(b, t, a, "broken", f"{unit} does not compile without the bug", "chosen")
                        continue
                    groups[unit] = binary, names
                    # Without this, a test that fails anyway would seem to catch every bug.
                    for t, a in sorted({(t, tuple(a)) for _, t, a in units[unit]}):
                        f = pool.submit(runner.execute, binary, t, list(a), 300)
                        pending[f] = ("as-is", t, unit, list(a))
                elif what == "as-is":
                    verdict, detail, _ = future.result()
                    unit = bug
                    ok = verdict == "passed"
                    if not ok:
                        print(f"as it is    {test} {' '.join(arguments)} {verdict}\n{detail[-4000:]}", flush=True)
                        fails += 1
                    binary, names = groups[unit]
                    for b, t, a in units[unit]:
                        if t != test or a != arguments:
                            continue
                        if not ok:
                            decide(b, test, a, "broken", f"{test} fails without the bug", "chosen")
                        elif b.name in names:
                            f = pool.submit(runner.execute, binary, test, a, b.timeout, b.name)
                            pending[f] = ("chosen", test, b, a)
                        else:
                            pending[pool.submit(runner.plant_alone, b, test, a)] = ("alone", test, b, a)
                elif what == "chosen":
                    verdict, detail, reached = future.result()
                    # Not reached: the bug lies in what is evaluated at compile time. Escaped: nobody may say that this
                    # way of planting hid it.
                    if verdict == "passed" or not reached:
                        pending[pool.submit(runner.plant_alone, bug, test, arguments)] = ("alone", test, bug, arguments)
                    else:
                        decide(bug, test, arguments, verdict, detail, "chosen")
                else:
                    decide(bug, test, arguments, *future.result(), "alone")
    finally:
        pool.shutdown(cancel_futures=True)
    return fails


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("words", nargs="*", help="only bugs whose name contains one of these")
    p.add_argument("--compiler", default=os.environ.get("CXX"),
                   help=f"of all; else {QUICK}, where there is one, of what is not optimised, g++ of the rest")
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--bugs", type=pathlib.Path, default=pathlib.Path(__file__).parent / "bugs")
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "planted")
    p.add_argument("--list", action="store_true")
    p.add_argument("--alone", action="store_true", help="compile each bug by itself")
    p.add_argument("--verdicts", type=pathlib.Path, help="write 'name verdict how' for each bug to this file")
    p.add_argument("--names", metavar="NAMES", help="only the bugs of just these names (comma-separated)")
    p.add_argument("--says", type=pathlib.Path, help="write as JSON which case caught each bug, in which words")
    p.add_argument("--touching", metavar="FILES", help="only bugs of these headers, tests or bugs/ files (comma-separated; * is all)")
    p.add_argument("--keep", action="store_true", help="keep overlays and binaries")
    args = p.parse_args()
    args.work = args.work.resolve()

    bugs = all_bugs(args.bugs)
    names = [b.name for b in bugs]
    if twice := {n for n in names if names.count(n) > 1}:
        sys.exit(f"two bugs are called {', '.join(sorted(twice))}")
    if unknown := [w for w in args.words if not any(w in n for n in names)]:
        sys.exit(f"no bug's name contains {', '.join(unknown)}")
    bugs = [b for b in bugs if not args.words or any(w in b.name for w in args.words)]
    if args.names is not None:
        wanted = set(args.names.split(","))
        if unknown := wanted - set(names):
            sys.exit(f"no bug is called {', '.join(sorted(unknown))}")
        bugs = [b for b in bugs if b.name in wanted]
    if args.touching is not None:
        files = set(args.touching.split(","))
        bugs = [b for b in bugs if files & {"*", b.file, b.source, *(t for t, _ in b.tests)}]
    if args.list:
        print("\n".join(f"{b.name:40} {b.file:28} {b.why}" for b in bugs))
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    runner = Runner(args)
    if error := runner.compile(ROOT / "tests" / "main.cpp", runner.main, "-O0"):
        sys.exit(error)

    begin = time.monotonic()
    width = max([len(b.name) for b in bugs], default=0)
    count = {"caught": 0, "ESCAPED": 0, "broken": 0}
    hows = {"chosen": 0, "alone": 0}
    lines, told = [], []

    def report(bug, verdict, detail, how, results):
        count[verdict] += 1
        for what, said, test, arguments, _ in results:
            case, words = says(what, said)
            told.append({"bug": bug.name, "verdict": verdict, "test": test, "case": case, "says": words})
        hows[how] += 1
        lines.append(f"{bug.name} {verdict} {how}\n")
        note = "compiled alone" if how == "alone" and not args.alone else ""
        print(f"{sum(count.values()):4}/{len(bugs)} {verdict:8} {bug.name:{width}}  {detail} {note}".rstrip(), flush=True)

    fails = run_all(runner, bugs, args.jobs, args.alone, report)
    if args.verdicts:
        args.verdicts.write_text("".join(sorted(lines)))
    if args.says:
        args.says.write_text(json.dumps(sorted(told, key=lambda t: (t["bug"], t["test"])), indent=1) + "\n")
    if not args.keep:
        for d in ("alone", "groups"):
            shutil.rmtree(args.work / d, ignore_errors=True)
    broken = max(count["broken"], fails)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{hows['chosen']} chosen at run time, {hows['alone']} compiled alone; "
          f"{used.ru_utime + used.ru_stime:.0f} s of CPU")
    print(f"{count['caught']} caught, {count['ESCAPED']} escaped, {broken} broken, {time.monotonic() - begin:.0f} s")
    return 1 if count["ESCAPED"] or broken else 0
