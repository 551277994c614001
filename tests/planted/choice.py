# SPDX-License-Identifier: BSL-1.0
"""Puts many planted bugs into one copy of a header, to be chosen when the test runs.

A bug is a changed text. Where it changes nothing but the bodies of functions, each changed body is compiled beside the
one as it is, and a look at the environment (SHADOWMMU_PLANTED=name) decides:

    void f() {                     void f() {
      good();           becomes      if (::shadowmmu_planted::is(7)) { bad(); } else {
    }                                good(); }
                                   }

What changes anything else (a signature, a constant, a type) gets None and is compiled by itself.
"""
import re

CHOICE_HEADER = "shadowmmu/planted_choice.hpp"

# The first word of a brace that holds declarations rather than statements.
CONTAINER = re.compile(r'(inline\s+)?(namespace|class|struct|union|enum)\b|extern\s*"')
# What may stand before that word, or belongs to no declaration.
PREFIX = re.compile(r"\s*((public|private|protected)\s*:(?!:)|\[\[[^\]]*\]\]|(export|typedef)\b|#[^\n]*\n)\s*")


def tokens(text):
    """Yields (position, character) of braces, semicolons and parentheses outside comments and literals."""
    i, n = 0, len(text)
    while i < n:
        c = text[i]
        if text.startswith("//", i):
            i = text.find("\n", i)
            if i < 0:
                return
        elif text.startswith("/*", i):
            i = text.index("*/", i) + 2
            continue
        elif c == '"' or (c == "'" and not (i and (text[i - 1].isalnum() or text[i - 1] == "_"))):
            i += 1
            while text[i] != c:
                i += 2 if text[i] == "\\" else 1
        elif c in "{};()":
            yield i, c
        i += 1


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def without_template(head):
    """Drops `template <...>`, and a requires clause in brackets, from the front of a declaration."""
    while m := re.match(r"\s*template\s*<", head):
        depth, brackets, i = 1, 0, m.end()
        while i < len(head) and depth:
            brackets += {"(": 1, ")": -1}.get(head[i], 0)
            depth += 0 if brackets else {"<": 1, ">": -1}.get(head[i], 0)
            i += 1
        head = head[i:]
    return head


def kind(head):
    head = without_comments(head)
    while True:
        shorter = without_template(PREFIX.sub("", head, count=1) if PREFIX.match(head) else head)
        if shorter == head:
            break
        head = shorter
    if CONTAINER.match(head.strip()):
        return "container"
    return "function" if ")" in head else "other"


def bodies(text):
    """The outermost bodies of functions: [(first character after the brace, closing brace)]."""
    found, stack, boundary, brackets = [], [], 0, 0
    for at, c in tokens(text):
        if c in "()":
            brackets += 1 if c == "(" else -1
        elif c == "{":
            inside = bool(stack) and stack[-1][0] != "container"
            stack.append(("inner" if inside or brackets else kind(text[boundary:at]), at))
            boundary = at + 1
        elif c == "}":
            if not stack:
                return []
            k, opened = stack.pop()
            if k == "function":
                found.append((opened + 1, at))
            boundary = at + 1
        elif not brackets:
            boundary = at + 1
    return found


def split(text):
    """[outside, body, outside, ..., outside]"""
    parts, last = [], 0
    for first, end in bodies(text):
        parts += [text[last:first], text[first:end]]
        last = end
    return parts + [text[last:]]


def changed_bodies(original, mutated):
    """{index in split(original): new body}, or None where something else than bodies of functions differs."""
    a, b = split(original), split(mutated)
    if len(a) != len(b) or a[::2] != b[::2]:
        return None
    changed = {i: y for i, (x, y) in enumerate(zip(a, b)) if x != y}
    return changed or None


def merge(original, variants):
    """variants: {number: mutated text}. Returns (merged text, {number: lines [(first, last)]}) of those that fit in."""
    parts = split(original)
    per_body = {}
    for number, mutated in variants.items():
        for i, body in (changed_bodies(original, mutated) or {}).items():
            per_body.setdefault(i, []).append((number, body))
    out, lines = f'#include "{CHOICE_HEADER}"\n', {}
    for i, part in enumerate(parts):
        for number, body in per_body.get(i, []):
            out += f"\nif (::shadowmmu_planted::is({number})) {{\n"
            first = out.count("\n") + 1
            out += body + "\n} else\n"
            lines.setdefault(number, []).append((first, out.count("\n")))
        out += "{\n" + part + "\n}\n" if i in per_body else part
    return out, lines


def choice_header(names):
    """names: {number: name}. The header that knows which bugs are compiled in, and which one is chosen."""
    table = ", ".join(f'{{{number}, "{name}"}}' for number, name in names.items())
    return f"""#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
namespace shadowmmu_planted {{
struct Known {{ int number; const char* name; }};
inline constexpr Known kKnown[] = {{{table}{", " if table else ""}{{-1, ""}}}};
inline int chosen = 0;
inline bool told = false;
/// Says once that the code of the chosen bug runs: also from a test that never ends.
inline bool reached() {{
  if (!__atomic_exchange_n(&told, true, __ATOMIC_RELAXED)) {{
    const char line[] = "\\nplanted: reached\\n";
    static_cast<void>(::write(2, line, sizeof line - 1) == 0);
  }}
  return true;
}}
constexpr bool is(int number) {{
  if (__builtin_is_constant_evaluated()) return false;
  return chosen == number && reached();
}}
/// Before any other initialisation, which may run library code.
[[gnu::constructor(101)]] inline void choose() {{
  const char* name = std::getenv("SHADOWMMU_PLANTED");
  if (name == nullptr || *name == 0) return;
  for (const Known& k : kKnown)
    if (std::strcmp(k.name, name) == 0 && k.number > 0) chosen = k.number;
  if (chosen != 0) return;
  std::fprintf(stderr, "planted: no bug '%s' in this binary\\n", name);
  std::_Exit(99);
}}
}}
"""


def self_test():
    text = """namespace a {
template <class S, bool B = (1 > 0)>
struct X final : Y<S> {
  static constexpr int kA = 3;
  int f(int x) const noexcept { return x; }  // a { brace
  int g() { auto l = [&] { return '{'; }; if (l()) { return 1'000; } return 2; }
 public:
  [[nodiscard]] auto h() -> int { return 4; }
  int z{5};
};
}
"""
    inner = [b.strip() for b in split(text)[1::2]]
    assert inner[0] == "return x;" and inner[1].startswith("auto l") and inner[1].endswith("return 2;"), inner
    assert inner[2:] == ["return 4;"], inner
    assert changed_bodies(text, text.replace("kA = 3", "kA = 4")) is None
    assert changed_bodies(text, text.replace("int z{5}", "int z{6}")) is None
    assert changed_bodies(text, text.replace("int f(int x)", "int f(int)").replace("return x", "return 0")) is None
    assert changed_bodies(text, text) is None
    both = text.replace("return x;", "return x + 1;").replace("return 4;", "return 6;")
    assert list(changed_bodies(text, both)) == [1, 5]
    merged, lines = merge(text, {1: text.replace("return x;", "return 8;"), 2: both})
    assert merged.count("is(1)") == 1 and merged.count("is(2)") == 2 and set(lines) == {1, 2}
    listing = merged.splitlines()
    assert any("return 8;" in listing[n - 1] for first, last in lines[1] for n in range(first, last + 1))
    print("self-test: choice.py puts bugs where they belong")


if __name__ == "__main__":
    self_test()
