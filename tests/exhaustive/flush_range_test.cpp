// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <vector>

#include "shadowmmu/flush.hpp"

/// What is owed after several steps: no page of any of them is left out, and none is named that nobody asked for.
namespace {
using namespace shadowmmu;

struct Step {
  bool structures;
  std::uint64_t first, pages;  ///< of a range; no pages: nothing is owed
  [[nodiscard]] FlushOwed owed() const { return structures ? FlushOwed::all() : FlushOwed::range(first, pages); }
  [[nodiscard]] bool needed() const { return structures || pages != 0; }
};

/// Nothing, everything, and every range of up to 4 pages that begins at pages 5 to 10.
std::vector<Step> steps() {
  std::vector<Step> all{{true, 0, 0}};
  for (std::uint64_t first = 5; first <= 10; ++first)
    for (std::uint64_t pages = 0; pages <= 4; ++pages) all.push_back({false, first, pages});
  return all;
}

void check(const FlushOwed& owed, const std::vector<Step>& by) {
  bool needed = false;
  bool structures = false;
  std::uint64_t first = ~std::uint64_t{0};
  std::uint64_t end = 0;
  for (const Step& s : by) {
    needed = needed || s.needed();
    structures = structures || s.structures;
    if (s.structures || s.pages == 0) continue;
    first = s.first < first ? s.first : first;
    end = s.first + s.pages > end ? s.first + s.pages : end;
  }
  CHECK(owed.needed() == needed);
  if (!needed) return;
  const FlushRequest r = owed.request(VcpuId{7});
  CHECK(r.vcpus == VcpuId{7});
  CHECK((r.scope == FlushRequest::Scope::Structures) == structures);
  if (structures) return;
  CHECK(r.first == first);
  CHECK(r.pages == end - first);
}

TEST_CASE("F30 what one step owes is what it said") {
  CHECK_FALSE(FlushOwed{}.needed());
  CHECK_FALSE(FlushOwed::none().needed());
  for (const Step& a : steps()) check(a.owed(), {a});
}
TEST_CASE("F30 what two steps owe covers both, in whichever order they come, and no more") {
  for (const Step& a : steps())
    for (const Step& b : steps()) {
      FlushOwed owed = a.owed();
      owed |= b.owed();
      check(owed, {a, b});
    }
}
TEST_CASE("F30 what three steps owe covers all; nothing between them takes nothing away") {
  for (const Step& a : steps())
    for (const Step& b : steps())
      for (const Step& c : {Step{true, 0, 0}, Step{false, 0, 0}, Step{false, 1, 2}, Step{false, 8, 1}}) {
        FlushOwed owed;
        owed |= a.owed();
        owed |= b.owed();
        owed |= c.owed();
        check(owed, {a, b, c});
      }
}
TEST_CASE("a request names every vCPU unless one is named") {
  for (const FlushOwed& f : {FlushOwed::all(), FlushOwed::range(3, 2)}) {
    CHECK(f.request().vcpus == kAllVcpus);
    CHECK(f.request(VcpuId{0}).vcpus == VcpuId{0});
    CHECK(f.request(VcpuId{3}).vcpus == VcpuId{3});
  }
  const FlushRequest whole = FlushOwed::all().request();
  CHECK(whole.first == 0);
  CHECK(whole.pages == 0);
  const FlushRequest last = FlushOwed::range((std::uint64_t{1} << 52) - 1, 1).request();
  CHECK(last.first == (std::uint64_t{1} << 52) - 1);
  CHECK(last.pages == 1);
}
}  // namespace
