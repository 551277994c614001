# SPDX-License-Identifier: BSL-1.0
"""Whether two neighbouring statements of the library do the same in either order.

Asked by `mutate`, which exchanges neighbours: two that commute are no mutant. It is no proof: names stand for what they
name, wherever it lies. A statement writes the last name of what it assigns, and what the functions that it calls write,
which are found by their names and numbers of arguments in all headers, however deep; where they take a number by
reference or by pointer, the argument, too. A call that leads out of the library (the Host, a container) writes what it
is called on and all its arguments. An order of memory stronger than relaxed, in a statement or in what it calls, and
whatever makes a guard, depend on all that is written. What a container's begin(), count() and the like are called on is
read.
"""
import re

import choice

WORD = re.compile(r"[A-Za-z_]\w*")
ASSIGNED = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\[\]]*\]\s*)?(?:[-+|&^/*%]|<<|>>)?=(?!=)|([A-Za-z_]\w*)\s*(?:\[[^\[\]]*\]\s*)?(?:\+\+|--)|"
                      r"(?:\+\+|--)\s*(?:[\w.\[\]]|->)*?([A-Za-z_]\w*)(?=\s*[^\w.\-\[(]|->$)")
CALL = re.compile(r"([A-Za-z_]\w*)\s*(?:<[^<>;()]*>\s*)?\(")
MEMORY = {"store", "exchange", "compare_exchange", "fetch_add"}
PURE = {"load", "word", "value", "level", "bits", "static_cast", "reinterpret_cast", "sizeof", "alignof", "min", "max", "size",
        "begin", "end", "empty", "front", "back", "iterator_to", "s_iterator_to", "count", "decltype", "bit_width", "popcount",
        "countr_zero", "assume", "to_phys", "to_virt"}
KEYWORD = {"if", "for", "while", "switch", "return", "noexcept", "requires", "alignas", "catch", "operator", "constexpr"}
ORDERED = re.compile(r"Order::(?!Relaxed)|\bfence\b|\block\(|\bunlock\(|\b\w*(?:Guard|Scope|Section|Change)(?:<[^<>;]*>)? \w+\(")
# A number, or a pointer, that a function may set for its caller.
SETS = re.compile(r"\b(?:bool|int|unsigned|char|void|double|\w+_t|Gfn|Gpa|Gva|Hpa)\b[\s\w]*(?:[&]|[*])")
DECLARED = re.compile(r"(?:\bauto|\bbool|\bunsigned|\bint|\bvoid|\bchar|_t|\b[A-Z]\w*(?:<[^;{}()]*>)?)(?:\s+const)?\s*[&*]*\s+[&*]*([a-z_]\w*)\s*(?=[={;:,)])")
NAMED = re.compile(r"(?!k[A-Z]|return$|plain$|[A-Z])\w")  # what a statement can write: no type, no constant


def arguments(text, at):
    """The texts of the arguments of the call whose bracket opens at `at`."""
    depth, out, last = 0, [], at + 1
    for i in range(at, len(text)):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth == 0:
                return [a for a in [*out, text[last:i]] if a.strip()]
        elif text[i] == "," and depth == 1:
            out.append(text[last:i])
            last = i + 1
    return out


def last_word(expression):
    """The name that an expression ends in, what stands in its brackets aside."""
    words = WORD.findall(re.sub(r"\[[^\[\]]*\]|\([^()]*\)", "", expression))
    return words[-1] if words else ""


def callees(functions, name, given):
    """The functions of that name which take so many arguments; all, where none seems to."""
    return [f for f in functions[name] if f.least <= given <= f.most] or functions[name]


class Effects:
    """What a text writes and reads, by name."""

    def __init__(self, text, functions):
        self.reads = set(WORD.findall(text))
        self.writes = {a or b or c for a, b, c in ASSIGNED.findall(text)}
        self.calls = set()
        self.ordered = bool(ORDERED.search(text))
        for m in CALL.finditer(text):
            name, given = m[1], arguments(text, m.end() - 1)
            known = callees(functions, name, len(given)) if name in functions else []
            if name in KEYWORD or (name in PURE and not any(f.ordered for f in known)):
                continue
            if name in MEMORY or (name == "plain" and len(given) == 2):
                self.writes.add(last_word(given[0]))
                if name == "compare_exchange" and len(given) > 1:
                    self.writes.add(last_word(given[1]))
            elif name == "plain":
                pass
            elif name in functions:
                self.calls.add((name, len(given)))
                if any(f.writes_arguments for f in known):
                    self.writes |= {last_word(a) for a in given}
            elif not name[0].isupper():
                before = re.search(r"([A-Za-z_][\w.\[\]]*(?:->[\w.\[\]]+)*)(?:\.|->)$", text[:m.start()])
                self.writes |= {last_word(a) for a in given}
                if not name.startswith("__builtin"):  # of the compiler's own, which keep nothing
                    self.writes.add(last_word(before[1]) if before else name)
        self.writes = {w for w in self.writes if NAMED.match(w)}


class Function:
    def __init__(self, head, body):
        self.body = body
        self.parameters = set()
        given = arguments(head, head.index("("))
        self.most = len(given) if "..." not in head else 99
        self.least = sum("=" not in p and "..." not in p for p in given)
        for p in given:
            name = last_word(p.split("=")[0])
            self.parameters.add(name)
        self.writes_arguments = any(SETS.search(p) and "const" not in p for p in given)
        self.ordered = bool(ORDERED.search(body))
        # A name that is a member's as well is not the function's alone.
        self.locals = {n for n in set(DECLARED.findall(body)) | self.parameters if not re.search(rf"(?:\.|->)\s*{n}\b", body)}


class Library:
    """All functions of some headers: {name: [Function]}."""

    def __init__(self, texts):
        """texts: of the headers, comments and literals blanked."""
        self.functions = {}
        for text in texts:
            for first, end in choice.bodies(text):
                start = max(text.rfind(c, 0, first - 1) for c in ";{}") + 1
                head = choice.without_template(re.sub(r"\b(public|private|protected)\s*:(?!:)", "", text[start:first - 1]))
                m = next((m for m in CALL.finditer(head) if m[1] not in KEYWORD), None)
                if m:
                    self.functions.setdefault(m[1], []).append(Function(head[m.start():], text[first:end]))
        self.of = {}

    def effects(self, call):
        """(writes, reads, ordered) of whatever a call (name, number of arguments) may be of, and of what that calls."""
        if call in self.of:
            return self.of[call]
        done, left, writes, reads, ordered = set(), {call}, set(), set(), False
        while left:
            f = left.pop()
            done.add(f)
            for function in callees(self.functions, *f):
                e = Effects(function.body, self.functions)
                writes |= e.writes - function.locals
                reads |= e.reads - function.locals
                ordered = ordered or e.ordered
                left |= e.calls - done
        self.of[call] = writes, reads, ordered
        return self.of[call]

    def whole(self, statement):
        e = Effects(statement, self.functions)
        writes, reads, ordered = set(e.writes), set(e.reads), e.ordered
        for c in e.calls:
            w, r, o = self.effects(c)
            writes, reads, ordered = writes | w, reads | r, ordered or o
        return writes, reads, ordered

    def commute(self, first, second):
        """Whether nobody can tell `first; second;` from `second; first;`."""
        # Counters add up in any order, and whoever is given memory back asks for no order.
        counter = [re.match(r"[\w.]*stats\.\w+\(&Counters::(\w+)", s.strip()) for s in (first, second)]
        if all(counter):
            return counter[0][1] != counter[1][1]
        if all(re.match(r"[\w.]*stats\.add\([\w&:.]+\);$", s.strip()) for s in (first, second)):
            return True
        freed = [re.match(r"(?:core::|s\.host\.)?free\w*\((?:s, |Memory::plain\()?([^(),]*)\)?\);", s.strip()) for s in (first, second)]
        if all(freed) and not any(last_word(a[1]) in WORD.findall(b[1]) for a, b in (freed, freed[::-1])):
            return True
        # Two objects that give their memory back.
        drained = [re.match(r"([\w.]+)\.drain\(free\);$", s.strip()) for s in (first, second)]
        if all(drained) and last_word(drained[0][1]) != last_word(drained[1][1]):
            return True
        step = [re.match(r"([\w.\->\[\]]+)\s*([|&+]=)", re.sub(r"^\s*(\w+) = \1 \|\| ", r"\1 |= ", s).strip())
                for s in (first, second)]
        (w1, r1, o1), (w2, r2, o2) = self.whole(first), self.whole(second)
        if (o1 and (w2 or o2)) or (o2 and w1):
            return False
        both = (w1 & (r2 | w2)) | (w2 & r1)
        if step[0] and step[1] and step[0].groups() == step[1].groups():
            # The same cell takes both steps, in either order; what is added must not be the cell itself.
            cell = last_word(step[0][1])
            return both <= {cell} and all(cell not in WORD.findall(m.string[m.end():]) for m in step)
        if both:
            return False
        # Who uses the whole of what the other writes a member of reads that, too.
        for one, other in ((first, second), (second, first)):
            owners = re.findall(r"[A-Za-z_]\w*(?=\s*(?:\.|->))", one[:re.search(r"[^=!<>]=(?!=)|$", one).end()])
            if any(re.search(rf"(?<![\w.>])[*&]?{o}\b(?!\s*(?:\.|->|::))", re.sub(r"\w+\([^()]*\)", "", other)) for o in owners):
                return False
        return True


def self_test():
    lib = Library(["""namespace a {
template <class S> void low(S& s) noexcept { s.deep = s.other + 1; }
template <class S> void high(S& s, int n) { int i = n; low(s); i += 2; }
void out(int& result) { result = 3; }
void loud(S& s) { S::Memory::template store<Order::Release>(s.flag, 1); }
bool right() const { return bits & 1; }
void right(S& s) { s.bits = 2; }
void inner(int& r) { r = 1; }
void outer(int& r) { inner(r); }
void fill(std::uint64_t* to) { to[0] = 1; }
void twin(S& s) { int left = 2; s.left = left; }
std::uint64_t begin() { return M::template fetch_add<Order::AcqRel>(now_, 1); }
}
"""])
    no = [("v.deep = 1;", "high(s, 2);"), ("x = v.deep;", "high(s, 2);"), ("high(s, 1);", "low(s);"), ("v.other = 2;", "low(s);"),
          ("out(x);", "y = x;"), ("v.a = 1;", "loud(s);"), ("host.flush(r);", "host.kick(r);"), ("list.push_back(p);", "q = p.link + p;"),
          ("a = b;", "b = a;"), ("n += n;", "n += 2;"), ("i++;", "x = i;"),
          ("v.bits = 1;", "x = r.right();"), ("right(s);", "right(s);"), ("outer(x);", "y = x;"),
          ("fill(x);", "y = x[0];"), ("twin(s);", "y = s.left;"), ("plain(e.cell, 0);", "d.period = s.grace.begin();"),
          ("v.flag = 1;", "const ExclusiveGuard<S> g(s);"), ("free(d->x);", "free(d);"),
          ("s.pool.drain(free);", "t.pool.drain(free);"), ("a.lock();", "b.lock();")]
    yes = [("v.id = 1;", "high(s, 2);"), ("a.x = 1;", "a.y = 2;"), ("i = 4;", "low(s);"), ("e |= f;", "e |= g;"), ("no = no || f;", "no = no || g;"),
           ("s.stats.add(&Counters::a);", "s.stats.add(&Counters::b);"), ("free(a);", "free(b);"),
           ("free(Memory::plain(t[i].heads));", "free(t[i].track);"), ("pages.drain(free);", "s.hash.drain(free);"),
           ("s.stats.add(&Counters::a);", "s.stats.add(r.counter);"),
           ("v.bits = 1;", "x = y.left;"), ("a.x = r.right();", "a.y = r.right();")]
    for pair in no:
        assert not lib.commute(*pair), pair
    for pair in yes:
        assert lib.commute(*pair), pair
    print("self-test: commute.py tells what may be exchanged")


if __name__ == "__main__":
    self_test()
