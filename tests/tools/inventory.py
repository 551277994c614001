#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""What `./dev test` runs, one line each, without building anything.

inventory.py ROOT PRESET=CTEST.json ...       prints it; CTEST.json is `ctest --show-only=json-v1` of that preset's stage
inventory.py ROOT --check BASELINE RENAMED PRESET=CTEST.json ...
                                              and demands that nothing of BASELINE is missing: no line, no smaller number
inventory.py ROOT --binary SUITE BINARY       demands that the binary has exactly the cases that the sources show
inventory.py --self-test

A line of BASELINE may be missing only where RENAMED says what took its place: "old line" => "new line".
"""
import json
import pathlib
import re
import subprocess
import sys

COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
STRING = r'"((?:\\.|[^"\\])*)"'
CASE = re.compile(r"\bTEST_CASE(_FIXTURE|_TEMPLATE)?\(\s*(?:(?<=_FIXTURE\()\s*[\w:<>, ]+?,\s*)?"
                  rf"((?:{STRING}\s*)+)(?:,\s*\w+\s*,\s*([^)]*))?\)")

# (what it is, file, pattern of the number): what decides how much is tried. A pattern that is gone is an error.
BOUNDS = [
    ("random: seeds", "tests/random/seeds.hpp", r"#else\s+inline constexpr std::uint64_t kSeeds = ([\d']+);"),
    ("random: actions a seed", "tests/random/seeds.hpp", r"kLength = ([\d']+);"),
    ("random: seeds under each policy", "tests/CMakeLists.txt", r"SHADOWMMU_SEEDS=(\d+)"),
    ("explorer: preemptions", "include/shadowmmu/sim/explore.hpp", r"unsigned preemptions = (\d+);"),
    ("explorer: runs of the search at most", "include/shadowmmu/sim/explore.hpp", r"max_runs = ([\d']+);"),
    ("explorer: random runs", "tests/explore/fault_explore_test.cpp", r"options\.random_runs = ([\d']+);"),
    ("explorer: steps a run", "tests/explore/fault_explore_test.cpp", r"options\.max_steps = ([\d']+);"),
    ("explorer: old values a run under the C++ memory model", "tests/explore/fault_explore_test.cpp", r"\.stale = (\d+)"),
    ("explorer: memory models", "tests/explore/fault_explore_test.cpp", r"for \(const bool tso : \{false, (true)\}\)"),
    ("walkers agree: rounds", "tests/sim/agreement_test.cpp", r"#else\s+constexpr unsigned kRounds = ([\d']+);"),
    ("walkers agree: walks a round", "tests/sim/agreement_test.cpp", r"kWalksPerRound = ([\d']+);"),
    ("damaged traces: rounds", "tests/reclaim/trace_test.cpp", r"#else\s+constexpr unsigned kRounds = ([\d']+);"),
    ("stress: milliseconds a storm", "tests/stress/stress_test.cpp", r": std::chrono::milliseconds\((\d+)\)"),
    ("guests: torture a second", "dev", r"torture_rate=(\d+)"),
    ("guests: migration a second", "dev", r"migration_rate=(\d+)"),
]


def without_comments(text):
    return COMMENT_OR_STRING.sub(lambda m: m[0] if m[0].startswith('"') else " ", text)


def cases(text):
    """The names that doctest gives to the test cases of one file, templates once for each type."""
    found = []
    for m in CASE.finditer(without_comments(text)):
        name = "".join(re.findall(STRING, m[2])).replace('\\"', '"').replace("\\\\", "\\")
        if m[1] == "_TEMPLATE":
            found += [f"{name}<{t.strip()}>" for t in m[4].split(",")]
        else:
            found.append(name)
    return found


def macro_uses(text):
    return len(re.findall(r"\bTEST_CASE(?:_FIXTURE|_TEMPLATE)?\(", COMMENT_OR_STRING.sub(" ", text)))


def suite_files(root):
    """{name of the binary: files}"""
    suites = {}
    for f in sorted((root / "tests").rglob("*_test.cpp")):
        suites.setdefault("test_" + f.relative_to(root / "tests").parts[0], []).append(f)
    suites["test_liburcu"] = [root / "examples/liburcu/urcu_test.cpp"]
    return suites


def check_parsed(root):
    for files in suite_files(root).values():
        for f in files:
            text = f.read_text()
            if macro_uses(text) != len(list(CASE.finditer(without_comments(text)))):
                sys.exit(f"{f}: a TEST_CASE that tests/tools/inventory.py does not understand")


def ctest_lines(root, preset, listing):
    suites = suite_files(root)
    for t in json.loads(listing)["tests"]:
        # By name: CTest does not tell the command of what is not built yet.
        binary = "test_liburcu" if t["name"] == "example.liburcu.grace" else f"test_{t['name']}"
        properties = {p["name"]: p["value"] for p in t.get("properties", [])}
        own = " ".join(e for e in properties.get("ENVIRONMENT", []) if e.startswith("SHADOWMMU_TEST_POLICY"))
        yield f"{preset}: ctest {t['name']}" + (f" with {own}" if own else "")
        # The runs under each policy have the cases of their suite.
        if binary in suites and not own:
            for f in suites[binary]:
                for name in cases(f.read_text()):
                    yield f"{preset}: {f.relative_to(root)}: {name}"


def scenario_lines(root):
    text = (root / "tests/explore/scenarios.hpp").read_text()
    body = text[text.index("std::vector<Named> scenarios()"):]
    for name in re.findall(r"\{" + STRING + ",", body):
        yield f"explorer: scenario {name}"


def script_lines(root):
    """What the script itself counts as tests."""
    scripts = [root / "dev", *(s for s in sorted((root / "tests/tools").glob("*.sh")) if "_test" not in s.name)]
    for script in scripts:
        for name in re.findall(r'\b(?:checked|guest) "([^"$]+)"', script.read_text()):
            yield f"script: {name}"


def planted_lines(root):
    for f in sorted((root / "tests/planted/bugs").glob("*.txt")):
        name = None
        for line in f.read_text().splitlines():
            if line.startswith("== "):
                name = line[3:].strip()
                yield f"planted: {name}"
            elif line.startswith("test ") and name:
                yield f"planted: {name}: {' '.join(line.split()[1:])}"


def bound_lines(root):
    for what, file, pattern in BOUNDS:
        path = root / file
        numbers = [m[1].replace("'", "") for m in re.finditer(pattern, path.read_text())] if path.exists() else []
        if file == "dev" and not numbers:
            numbers = [m[1] for s in sorted((root / "tests/tools").glob("*.sh")) for m in
                       re.finditer(pattern, s.read_text())]
        if not numbers:
            sys.exit(f"{file}: no '{what}' any more; tests/tools/inventory.py looks for {pattern}")
        yield f"bound: {what} = {min((2 if n == 'true' else int(n)) for n in numbers)}"


def inventory(root, listings):
    check_parsed(root)
    lines = []
    for preset, listing in listings:
        lines += ctest_lines(root, preset, listing)
    for more in (scenario_lines, script_lines, planted_lines, bound_lines):
        lines += more(root)
    return lines


def missing(baseline, current, renamed):
    """What of baseline is not in current: a number may grow, a line may have the new name that renamed gives it."""
    have = set(current)
    bounds = {line.rpartition(" = ")[0]: int(line.rpartition(" = ")[2]) for line in current if line.startswith("bound: ")}
    lost = []
    for line in baseline:
        line = renamed.get(line, line)
        if line in have:
            continue
        name, _, number = line.rpartition(" = ")
        if line.startswith("bound: ") and bounds.get(name, -1) >= int(number):
            continue
        lost.append(line)
    return lost


def parse_renamed(text):
    table = {}
    for n, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            m = re.fullmatch(r'"(.*)" => "(.*)"', line)
            if not m:
                sys.exit(f'line {n} of the table of renamed tests is not: "old line" => "new line"')
            table[m[1]] = m[2]
    return table


def check_binary(root, suite, binary):
    expected = sorted(c for f in suite_files(root)[suite] for c in cases(f.read_text()))
    out = subprocess.run([binary, "--list-test-cases", "--no-colors=1"], capture_output=True, text=True, check=True).stdout
    # doctest writes a type as the compiler does, qualified.
    got = sorted(re.sub(r"<[\w:]*::(\w+)>$", r"<\1>", line) for line in out.splitlines() if line and not line.startswith(("[doctest]", "====")))
    for what, names in (("not in the binary", set(expected) - set(got)), ("not in the sources", set(got) - set(expected))):
        for name in sorted(names):
            print(f"{what}: {name}")
    if expected != got:
        sys.exit(f"{suite}: {len(expected)} cases in the sources, {len(got)} in the binary")
    print(f"{suite}: {len(got)} cases")


def self_test():
    text = '''// TEST_CASE("in a comment") {
    TEST_CASE("one, with (brackets) and \\"quotes\\"") {}
    TEST_CASE_FIXTURE(Running,
                      "two "
                      "parts") {}
    TEST_CASE_TEMPLATE("three", M, Smp, Up) {}
    TEST_CASE(
        "four") {}'''
    assert cases(text) == ['one, with (brackets) and "quotes"', "two parts", "three<Smp>", "three<Up>", "four"], cases(text)
    assert macro_uses(text) == 4
    base = ["a", "b", "bound: seeds = 400"]
    assert missing(base, ["a", "b", "c", "bound: seeds = 400"], {}) == []
    assert missing(base, ["a", "b", "bound: seeds = 500"], {}) == []
    assert missing(base, ["a", "b", "bound: seeds = 399"], {}) == ["bound: seeds = 400"]
    assert missing(base, ["a", "c", "bound: seeds = 400"], {}) == ["b"]
    assert missing(base, ["a", "c", "bound: seeds = 400"], parse_renamed('# why\n"b" => "c"\n')) == []
    print("self-test: inventory.py misses nothing")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(sys.argv[1]).resolve()
    rest = sys.argv[2:]
    if rest[:1] == ["--binary"]:
        return check_binary(root, rest[1], rest[2])
    check = None
    if rest[:1] == ["--check"]:
        check, rest = rest[1:3], rest[3:]
    lines = inventory(root, [(a.split("=", 1)[0], pathlib.Path(a.split("=", 1)[1]).read_text()) for a in rest])
    if not check:
        print("\n".join(lines))
        return None
    baseline = pathlib.Path(check[0]).read_text().splitlines()
    lost = missing([b for b in baseline if b and not b.startswith("#")], lines, parse_renamed(pathlib.Path(check[1]).read_text()))
    for line in lost:
        print(f"lost: {line}")
    print(f"{len(baseline)} lines of the baseline, {len(lines)} now, {len(lost)} lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
