// SPDX-License-Identifier: BSL-1.0
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "reclaim/trace.hpp"

/// What traces hold, and other formats made native.
namespace shadowmmu::bench {
namespace {

/// Returns: how many different values `key` has over the touches; ends are no touches.
template <class Key>
std::size_t distinct(const std::vector<Record>& records, Key key) {
  std::unordered_set<std::uint64_t> seen;
  std::uint64_t last = ~std::uint64_t{0};
  for (const Record r : records) {
    if (r.end() || key(r) == last) continue;
    last = key(r);
    seen.insert(last);
  }
  return seen.size();
}
/// The page, or the region 2^shift pages wide that one table at some level maps. Each space has its own user half; the
/// kernel half, which Linux shares among them all, counts once.
auto region(unsigned shift) {
  return [shift](Record r) {
    const bool kernel = r.page() >> (Record::kPageBits - 1) != 0;
    return r.page() >> shift | (kernel ? 0 : std::uint64_t{r.space()} << Record::kPageBits);
  };
}
template <class Which>
std::size_t count(const std::vector<Record>& records, Which which) {
  return static_cast<std::size_t>(std::count_if(records.begin(), records.end(), which));
}

void head() {
  std::puts(
      "| trace | touches | stores | fetches | kernel half | 4K pages | 2M/1G/512G regions | address spaces | ended |");
  std::puts("|---|---|---|---|---|---|---|---|---|");
}
void stat(const std::string& path) {
  const Trace trace = load_trace(path);
  const std::vector<Record>& r = trace.records;
  const std::size_t ends = count(r, [](Record x) { return x.end(); });
  std::printf("| %s | %zu | %zu | %zu | %zu | %zu | %zu/%zu/%zu | %zu | %zu |\n", trace.name.c_str(), r.size() - ends,
              count(r, [](Record x) { return !x.end() && x.store(); }),
              count(r, [](Record x) { return !x.end() && x.fetch(); }),
              count(r, [](Record x) { return !x.end() && x.page() >> 35 != 0; }), distinct(r, region(0)),
              distinct(r, region(9)), distinct(r, region(18)), distinct(r, region(27)),
              distinct(r, [](Record x) { return std::uint64_t{x.space()}; }), ends);
}

/// Returns: a format's enumerator, Guess for what is none.
TraceFormat named(std::string_view name) { return format_of_name("x." + std::string(name)); }

int usage() {
  std::fputs(
      "trace_tool stat FILE...                          one line of a table for each\n"
      "trace_tool convert IN OUT [FORMAT [FROM COUNT]]  to OUT.u64 or OUT.u64.zst; a slice of COUNT records;\n"
      "                                                 FORMAT: guess u64 lackey oracleGeneral\n",
      stderr);
  return 125;
}

int convert(const std::vector<std::string>& args) {
  Trace trace = load_trace(args[1], args.size() > 3 ? named(args[3]) : TraceFormat::Guess);
  if (args.size() > 5) {
    const std::size_t from = std::min<std::size_t>(std::stoull(args[4]), trace.records.size());
    const std::size_t to = from + std::min<std::size_t>(std::stoull(args[5]), trace.records.size() - from);
    trace.records.assign(trace.records.begin() + static_cast<std::ptrdiff_t>(from),
                         trace.records.begin() + static_cast<std::ptrdiff_t>(to));
  }
  save_trace(args[2], trace.records);
  return 0;
}

int main_of(const std::vector<std::string>& args) {
  if (args.size() >= 2 && args[0] == "stat") {
    head();
    std::for_each(args.begin() + 1, args.end(), stat);
    return 0;
  }
  if ((args.size() == 3 || args.size() == 4 || args.size() == 6) && args[0] == "convert") return convert(args);
  return usage();
}

}  // namespace
}  // namespace shadowmmu::bench

int main(int argc, char** argv) {
  try {
    return shadowmmu::bench::main_of({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "trace_tool: %s\n", e.what());
    return 1;
  }
}
