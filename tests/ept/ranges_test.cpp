// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

/// Where ranges begin and end: invalidations, slots, large pages, logs, flushes. Under direct maps, whose flushes name
/// their pages; each case goes through all first and last gfns around the borders.
namespace {
using namespace shadowmmu;
using Kind = FaultOutcome::Kind;
using Gfns = std::vector<std::uint64_t>;

constexpr std::uint64_t kGib = 262144;

struct RangeHost : host::Arena {
  RangeHost() : Arena(9 * kGib, 4096) {}
  Backing backing(Gfn g, bool write) noexcept {
    Backing b = Arena::backing(g, write);
    if (b.kind != Backing::Kind::None) b.kind = kind;
    b.type = type;
    if (base != 0) b.pfn = Pfn{base};
    if (auto m = std::exchange(meddle, nullptr)) m();
    return b;
  }
  void wrote(Gfn first, std::uint64_t pages) noexcept { told.ranges.emplace_back(first.value(), pages); }
  void kick_and_wait(VcpuId) noexcept {
    if (auto k = std::exchange(kicked, nullptr)) k();
  }
  void flush(const FlushRequest& r) noexcept { flushes.push_back(r); }
  [[nodiscard]] bool flushed(std::uint64_t gfn) const {
    for (const FlushRequest& r : flushes)
      if (r.vcpus == kAllVcpus && (r.scope == FlushRequest::Scope::Structures || gfn - r.first < r.pages)) return true;
    return false;
  }
  Backing::Kind kind = Backing::Kind::Memory;
  MemoryType type = MemoryType::WriteBack;
  bool should_yield() noexcept { return yield_at_once; }
  bool yield_at_once = false;
  std::uint64_t base = 0;  ///< where every frame lies, if not 0
  std::function<void()> meddle, kicked;
  /// What the Mmu said was written.
  struct Told {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    void clear() { ranges.clear(); }
    [[nodiscard]] unsigned count(std::uint64_t gfn) const {
      for (const auto& [first, pages] : ranges)
        if (gfn - first < pages) return 1;
      return 0;
    }
    [[nodiscard]] std::uint64_t size() const {
      std::uint64_t n = 0;
      for (const auto& r : ranges) n += r.second;
      return n;
    }
  } told;
  std::vector<FlushRequest> flushes;
};
using Mmu = ShadowMmu<arch::Ept, lock::Readers<lock::Spin>, reclaim::Fifo, RangeHost>;

struct Machine {
  explicit Machine(unsigned level = 1, Mmu::Caps c = {}) : caps(c), mmu(host, c) {
    host.set_backing_level(Level{level});
    mmu.set_limit(2000);
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
  }
  Kind touch(std::uint64_t gfn, bool write = false) {
    REQUIRE(vcpu->enter() == EnterOutcome::Enter);
    const bool present = vcpu->lookup(Gva{gfn << 12}).present;
    return vcpu->handle_fault(Gva{gfn << 12}, (write ? pferr::kWrite : 0U) | (present ? pferr::kPresent : 0U)).kind;
  }
  EntryInfo at(std::uint64_t gfn) { return vcpu->lookup(Gva{gfn << 12}); }
  bool present(std::uint64_t gfn) {
    const EntryInfo e = at(gfn);
    if (e.present) CHECK(e.pfn == Pfn{(RangeHost::kGuestBase >> 12) + gfn});
    return e.present;
  }
  bool writable(std::uint64_t gfn) { return at(gfn).rights.write(); }
  /// Effects: what a CPU does that finds W in the leaf: A and D are set in it. Returns: whether W was there.
  bool cpu_writes(std::uint64_t gfn) {
    std::uint64_t table = vcpu->hw_state().cr3 & arch::Ept::kAddressBits;
    for (unsigned l = 4;; --l) {
      std::uint64_t& e = static_cast<std::uint64_t*>(host.to_virt(Hpa{table}))[Level{l}.index(gfn << 12)];
      if ((e & arch::Ept::kWrite) == 0) return false;
      if (arch::Ept::leaf(e, Level{l})) return (e |= arch::Ept::kAccessed | arch::Ept::kDirty) != 0;
      table = e & arch::Ept::kAddressBits;
    }
  }
  void audit() {
    const AuditReport a = mmu.audit();
    INFO(std::string(a.first == nullptr ? "" : a.first));
    CHECK(a.violations == 0);
  }
  RangeHost host;
  Mmu::Caps caps;
  Mmu mmu;
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

/// The slot of most cases: it begins and ends in the middle of a region of 2 MiB.
constexpr std::uint64_t kFirst = 3, kEnd = 1540;
const Gfns kBorders{0, 2, 3, 4, 511, 512, 513, 1023, 1024, 1025, 1538, 1539, 1540, 1541};
bool in_slot(std::uint64_t g) { return g >= kFirst && g < kEnd; }
struct Slotted : Machine {
  explicit Slotted(unsigned level = 1) : Machine(level) { slot = mmu.add_slot(Gfn{kFirst}, kEnd - kFirst).value(); }
  void touch_all(bool write) {
    for (const std::uint64_t g : kBorders)
      if (in_slot(g)) REQUIRE(touch(g, write) == Kind::Resume);
  }
  SlotId slot{};
};

TEST_CASE("addresses 8 GiB apart, which share a place among the remembered paths, are mapped each in its own place") {
  Machine m;
  const Gfns firsts{0, 8 * kGib};
  for (const std::uint64_t first : firsts) REQUIRE(m.mmu.add_slot(Gfn{first}, 1024).ok());
  for (std::uint64_t n = 0; n < 4; ++n)
    for (const std::uint64_t first : firsts) {
      REQUIRE(m.touch(first + n) == Kind::Resume);
      CHECK(m.present(first + n));
    }
  m.audit();
}
TEST_CASE("F27 an invalidation takes what lies in its range, all of it and nothing else, and flushes just that") {
  Slotted m;
  for (const std::uint64_t first : kBorders)
    for (const std::uint64_t end : kBorders) {
      if (end < first) continue;
      CAPTURE(first);
      CAPTURE(end);
      m.touch_all(true);
      m.host.flushes.clear();
      m.host.told.clear();
      m.mmu.unmap(Gfn{first}, end - first);
      std::uint64_t low = ~0ULL, high = 0;
      for (const std::uint64_t g : kBorders) {
        const bool hit = in_slot(g) && g >= first && g < end;
        CHECK(m.present(g) == (in_slot(g) && !hit));
        CHECK(m.host.told.count(g) == (hit ? 1 : 0));
        if (hit) low = g < low ? g : low;
        if (hit) high = g;
      }
      CHECK(m.host.flushes.size() == (low <= high ? 1 : 0));
      if (low > high) continue;
      const FlushRequest f = m.host.flushes[0];
      CHECK(f.scope == FlushRequest::Scope::Range);
      CHECK(f.vcpus == kAllVcpus);
      CHECK(f.first == low);
      CHECK(f.pages == high - low + 1);
    }
  m.audit();
}
TEST_CASE("F30 long work that lets the lock go has flushed by then what it took; each page is flushed once") {
  Machine m;
  REQUIRE(m.mmu.add_slot(Gfn{0}, 4096).ok());
  for (std::uint64_t g = 0; g < 4096; ++g) REQUIRE(m.touch(g, true) == Kind::Resume);
  m.host.yield_at_once = true;
  m.host.flushes.clear();
  m.mmu.unmap(Gfn{7}, 4000);
  CHECK(m.mmu.stats().yields >= 4);
  CHECK(m.host.flushes.size() == m.mmu.stats().yields + 1);
  std::uint64_t at = 7;
  for (const FlushRequest& f : m.host.flushes) {
    CHECK(f.first == at);
    at += f.pages;
  }
  CHECK(at == 4007);
}
TEST_CASE("F27 a range that ends where a slot begins, or begins where it ends, leaves its large pages alone") {
  for (const unsigned level : {2U, 3U}) {
    const std::uint64_t n = Level{level}.frames();
    Machine m(level);
    REQUIRE(m.mmu.add_slot(Gfn{n}, n).ok());
    REQUIRE(m.touch(n + 5, true) == Kind::Resume);
    CHECK(m.at(n).level == Level{level});
    m.host.flushes.clear();
    for (const std::uint64_t pages : {1U, 2U, 512U}) {
      m.mmu.unmap(Gfn{n - pages}, pages);
      m.mmu.unmap(Gfn{2 * n}, pages);
      CHECK_FALSE(m.mmu.clear_young(Gfn{n - pages}, pages));
      CHECK_FALSE(m.mmu.clear_young(Gfn{2 * n}, pages));
      CHECK(m.present(n + 5));
    }
    CHECK(m.host.flushes.empty());
    CHECK(m.mmu.clear_young(Gfn{n - 1}, 2));
    m.mmu.unmap(Gfn{2 * n - 1}, 2);
    CHECK_FALSE(m.present(n + 5));
  }
}
TEST_CASE("F27 ranges that wrap end at the last gfn; a range of no page takes none") {
  Slotted m;
  for (const std::uint64_t pages : {~0ULL, ~0ULL - 1, ~0ULL - 512, 1ULL << 63}) {
    m.touch_all(false);
    m.mmu.unmap(Gfn{512}, pages);
    for (const std::uint64_t g : kBorders) CHECK(m.present(g) == (in_slot(g) && g < 512));
    CHECK_FALSE(m.mmu.test_young(Gfn{512}, pages));
    CHECK(m.mmu.test_young(Gfn{511}, pages));
  }
  m.touch_all(false);
  m.mmu.unmap(Gfn{512}, 0);
  CHECK(m.present(512));
}
TEST_CASE("F27 while invalidations are under way nothing is installed in any of their ranges; just outside it is") {
  Slotted m;
  const Gfns points{3, 4, 511, 512, 1024, 1539, 1540};
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const std::uint64_t a : points)
    for (const std::uint64_t b : points)
      if (a < b) ranges.emplace_back(a, b);
  const auto check = [&](const auto& open) {
    std::uint64_t low = ~0ULL, high = 0;
    for (const auto& [a, b] : open) {
      low = a < low ? a : low;
      high = b > high ? b : high;
    }
    for (const std::uint64_t g : kBorders) {
      if (!in_slot(g)) continue;
      bool inside = false;
      for (const auto& [a, b] : open) inside = inside || (g >= a && g < b);
      const Kind k = m.touch(g);
      if (inside) CHECK(k == Kind::Retry);
      if (g < low || g >= high) CHECK(k == Kind::Resume);
    }
  };
  for (const auto& one : ranges)
    for (const auto& other : ranges) {
      CAPTURE(one.first);
      CAPTURE(other.first);
      m.mmu.invalidate_begin(Gfn{one.first}, one.second - one.first);
      check(std::vector{one});
      m.mmu.invalidate_begin(Gfn{other.first}, other.second - other.first);
      check(std::vector{one, other});
      m.mmu.invalidate_end();
      check(std::vector{one, other});  // whose end it was is not known
      m.mmu.invalidate_end();
      m.touch_all(true);
      for (const std::uint64_t g : kBorders) CHECK(m.present(g) == in_slot(g));
    }
  m.audit();
}
TEST_CASE(
    "8.10 a large page does not reach into an invalidation under way, and is made right beside it: 2 MiB, 1 GiB") {
  for (const unsigned level : {2U, 3U}) {
    const std::uint64_t n = Level{level}.frames();
    Machine m(level);
    REQUIRE(m.mmu.add_slot(Gfn{0}, 3 * n).ok());
    using Range = std::pair<std::uint64_t, std::uint64_t>;  // first, pages
    const Range ranges[] = {{n - 1, 1}, {n, 1},     {n + 1, 1}, {2 * n - 1, 1}, {2 * n, 1},
                            {0, n},     {0, n + 1}, {2 * n, n}, {n + n / 2, 1}};
    for (const Range& range : ranges)
      for (const std::uint64_t g : {n, n + 5, n + n / 2, 2 * n - 1}) {
        const std::uint64_t first = range.first;
        const std::uint64_t pages = range.second;
        CAPTURE(first);
        CAPTURE(g);
        m.mmu.unmap(Gfn{0}, 3 * n);
        m.mmu.invalidate_begin(Gfn{first}, pages);
        const bool apart = first + pages <= n || first >= 2 * n;
        const bool hit = g >= first && g < first + pages;
        CHECK(m.touch(g) == (hit ? Kind::Retry : Kind::Resume));
        if (!hit) CHECK((m.at(g).level == Level{level}) == apart);
        m.mmu.invalidate_end();
      }
    m.audit();
  }
}
TEST_CASE("F27 a large page goes whole with any gfn of it, and is flushed and told of whole; its neighbours stay") {
  for (const unsigned level : {2U, 3U}) {
    const std::uint64_t n = Level{level}.frames();
    Machine m(level);
    REQUIRE(m.mmu.add_slot(Gfn{0}, 3 * n).ok());
    for (const std::uint64_t g : {n, n + 1, n + n / 2, 2 * n - 1}) {
      for (const std::uint64_t block : {0U, 1U, 2U}) REQUIRE(m.touch(block * n + 7, true) == Kind::Resume);
      m.host.flushes.clear();
      m.host.told.clear();
      m.mmu.unmap(Gfn{g}, 1);
      CHECK(m.at(7).level == Level{level});
      CHECK(m.present(7));
      CHECK_FALSE(m.present(n + 7));
      CHECK(m.present(2 * n + 7));
      REQUIRE(m.host.flushes.size() == 1);
      CHECK(m.host.flushes[0].first == n);
      CHECK(m.host.flushes[0].pages == n);
      CHECK(m.host.told.size() == n);
      CHECK(m.host.told.count(n) == 1);
    }
  }
}
TEST_CASE("F15 no large page over the ends of a slot, wherever they are: 2 MiB and 1 GiB, begin and end") {
  const std::int64_t off[] = {-512, -1, 0, 1, 511, 512};
  for (const std::int64_t begin : off)
    for (const std::int64_t end : off)
      for (const unsigned level : {2U, 3U})
        for (const bool gib : {true, false}) {
          const std::uint64_t first = kGib + static_cast<std::uint64_t>(begin);
          const std::uint64_t last = 2 * kGib + static_cast<std::uint64_t>(end) - 1;
          CAPTURE(begin);
          CAPTURE(end);
          Mmu::Caps c;
          c.large_1g = gib;
          Machine m(level, c);
          REQUIRE(m.mmu.add_slot(Gfn{first}, last - first + 1).ok());
          for (const std::uint64_t g : {first, first + 1, kGib, kGib + 511, kGib + 512, kGib + 777, 2 * kGib - 513,
                                        2 * kGib - 1, 2 * kGib, 2 * kGib + 510, last - 1, last}) {
            if (g < first || g > last) continue;
            unsigned fits = 1;
            for (unsigned l = 2; l <= level && l <= (gib ? 3U : 2U); ++l) {
              const std::uint64_t n = Level{l}.frames();
              if (g / n * n >= first && g / n * n + n - 1 <= last) fits = l;
            }
            m.mmu.unmap(Gfn{0}, 3 * kGib);
            REQUIRE(m.touch(g, true) == Kind::Resume);
            CHECK(m.at(g).level == Level{fits});
            CHECK(m.present(g));
          }
          m.audit();
        }
}
TEST_CASE("slots hold their gfns and no other, whichever was looked up before") {
  Machine m;
  // Gaps before, between and none between the second and third.
  const std::pair<std::uint64_t, std::uint64_t> slots[] = {{3, 511}, {512, 513}, {513, 1540}, {1542, 1543}};
  for (const auto& [a, b] : slots) REQUIRE(m.mmu.add_slot(Gfn{a}, b - a).ok());
  const Gfns gfns{0, 2, 3, 4, 509, 510, 511, 512, 513, 514, 1539, 1540, 1541, 1542, 1543, 1544, 5000};
  for (const std::uint64_t before : gfns)
    for (const std::uint64_t g : gfns) {
      bool memory = false;
      for (const auto& [a, b] : slots) memory = memory || (g >= a && g < b);
      static_cast<void>(m.touch(before));
      CAPTURE(before);
      CAPTURE(g);
      m.mmu.invalidate_mmio();
      CHECK(m.touch(g) == (memory ? Kind::Resume : Kind::Mmio));
    }
  m.audit();
}
TEST_CASE("slots may touch and not overlap; the last gfn there is, is 2^32 - 1") {
  Machine m;
  REQUIRE(m.mmu.add_slot(Gfn{100}, 100).ok());
  for (std::uint64_t first = 95; first < 205; ++first)
    for (const std::uint64_t pages : {1U, 2U, 5U, 99U, 100U, 101U, 200U}) {
      const auto r = m.mmu.add_slot(Gfn{first}, pages);
      const bool apart = first + pages <= 100 || first >= 200;
      CHECK(r.ok() == apart);
      if (r.ok())
        CHECK(m.mmu.remove_slot(r.value()).ok());
      else
        CHECK(r.error() == Error::Overlap);
    }
  const std::uint64_t end = std::uint64_t{1} << 32;
  for (const std::uint64_t pages : {1U, 2U, 5U}) {
    CHECK(m.mmu.add_slot(Gfn{end - pages + 1}, pages).error() == Error::BadRange);
    const auto r = m.mmu.add_slot(Gfn{end - pages}, pages);
    REQUIRE(r.ok());
    CHECK(m.mmu.remove_slot(r.value()).ok());
  }
  m.audit();
}
TEST_CASE("what is done to a slot is done to all of it and to nothing beside it") {
  for (unsigned what = 0; what < 4; ++what) {
    CAPTURE(what);
    Machine m;
    const std::pair<std::uint64_t, std::uint64_t> place[] = {{3, 509}, {509, 1030}, {1030, 1540}};
    SlotId id[3];
    for (unsigned i = 0; i < 3; ++i)
      id[i] = m.mmu.add_slot(Gfn{place[i].first}, place[i].second - place[i].first).value();
    const Gfns gfns{3, 507, 508, 509, 510, 511, 512, 1023, 1024, 1028, 1029, 1030, 1031, 1539};
    for (const std::uint64_t g : gfns) REQUIRE(m.touch(g, true) == Kind::Resume);
    m.host.flushes.clear();
    switch (what) {
      case 0:
        REQUIRE(m.mmu.zap_slot(id[1]).ok());
        break;
      case 1:
        REQUIRE(m.mmu.set_slot_flags(id[1], {true}).ok());
        break;
      case 2:
        REQUIRE(m.mmu.start_dirty_log(id[1]).ok());
        break;
      default:
        REQUIRE(m.mmu.start_dirty_log(id[1], DirtyMethod::DirtyBit).ok());
        break;
    }
    for (const std::uint64_t g : gfns) {
      const bool inside = g >= 509 && g < 1030;
      CAPTURE(g);
      CHECK(m.host.flushed(g) == inside);
      CHECK(m.host.told.count(g) == (inside ? 1 : 0));
      if (what < 2) CHECK(m.present(g) == !inside);
      if (what == 2) CHECK(m.writable(g) == !inside);
      if (what == 3) CHECK(((m.at(g).entry & arch::Ept::kDirty) != 0) == !inside);
    }
    m.audit();
  }
}
TEST_CASE("F19 ageing: the range and nothing else, at each page size, with the lock and for a reader") {
  Slotted m;
  Mmu::Reader reader(m.mmu);
  for (const std::uint64_t first : kBorders)
    for (const std::uint64_t end : kBorders) {
      if (end < first) continue;
      CAPTURE(first);
      CAPTURE(end);
      m.mmu.unmap(Gfn{0}, 2000);
      m.touch_all(false);
      bool any = false;
      for (const std::uint64_t g : kBorders) any = any || (in_slot(g) && g >= first && g < end);
      CHECK(m.mmu.test_young(Gfn{first}, end - first) == any);
      CHECK(reader.test_young(Gfn{first}, end - first) == any);
      CHECK(m.mmu.clear_young(Gfn{first}, end - first) == any);
      for (const std::uint64_t g : kBorders) {
        const bool young = in_slot(g) && (g < first || g >= end);
        CHECK(m.mmu.test_young(Gfn{g}, 1) == young);
        CHECK(reader.test_young(Gfn{g}, 1) == young);
      }
    }
  for (const std::uint64_t g : kBorders) {
    if (!in_slot(g)) continue;
    m.mmu.unmap(Gfn{0}, 2000);
    REQUIRE(m.touch(g) == Kind::Resume);
    for (const std::uint64_t first : kBorders)
      for (const std::uint64_t end : kBorders) {
        if (end < first) continue;
        CHECK(m.mmu.test_young(Gfn{first}, end - first) == (g >= first && g < end));
        CHECK(reader.test_young(Gfn{first}, end - first) == (g >= first && g < end));
      }
  }
  for (const unsigned level : {2U, 3U}) {
    const std::uint64_t n = Level{level}.frames();
    Machine big(level);
    Mmu::Reader other(big.mmu);
    REQUIRE(big.mmu.add_slot(Gfn{0}, 3 * n).ok());
    REQUIRE(big.touch(n + 5) == Kind::Resume);
    for (const std::uint64_t g : {n - 1, n, n + 1, 2 * n - 1, 2 * n}) {
      const bool inside = g >= n && g < 2 * n;
      CHECK(big.mmu.test_young(Gfn{g}, 1) == inside);
      CHECK(other.test_young(Gfn{g}, 1) == inside);
    }
    CHECK_FALSE(big.mmu.clear_young(Gfn{n - 1}, 1));
    CHECK_FALSE(big.mmu.clear_young(Gfn{2 * n}, 1));
    CHECK(big.mmu.test_young(Gfn{n}, 1));
    CHECK(big.mmu.clear_young(Gfn{2 * n - 1}, 1));
    CHECK_FALSE(big.mmu.test_young(Gfn{0}, 3 * n));
  }
}

// --- logs: words of 64 gfns, counted from a slot's first ---------------------------------------------------------
using Taker = std::function<Status(std::uint64_t, std::uint64_t, std::uint64_t*)>;
constexpr std::uint64_t kLogFirst = 37, kLogPages = 64 * 17 + 5;  // 18 words, the last of 5 gfns
void each_word(DirtyMethod method, bool by_reader) {
  Machine m;
  REQUIRE(m.mmu.add_slot(Gfn{0}, kLogFirst).ok());
  const SlotId slot = m.mmu.add_slot(Gfn{kLogFirst}, kLogPages).value();
  REQUIRE(m.mmu.add_slot(Gfn{kLogFirst + kLogPages}, 100).ok());
  REQUIRE(m.mmu.start_dirty_log(slot, method).ok());
  Mmu::Reader reader(m.mmu);
  const Taker fetch = [&](std::uint64_t f, std::uint64_t n, std::uint64_t* out) {
    return by_reader ? reader.fetch_dirty_log(slot, f, n, out) : m.mmu.fetch_dirty_log(slot, f, n, out);
  };
  const std::uint64_t words = Mmu::dirty_log_words(kLogPages);
  REQUIRE(words == 18);
  REQUIRE(m.vcpu->enter() == EnterOutcome::Enter);
  std::uint64_t out[18];
  Gfns gfns{0, 36};
  for (std::uint64_t w = 0; w < words; ++w)
    for (const std::uint64_t bit : {0U, 1U, 4U, 5U, 62U, 63U})
      if (w * 64 + bit < kLogPages) gfns.push_back(kLogFirst + w * 64 + bit);
  gfns.push_back(kLogFirst + kLogPages);
  const auto bit_of = [&](std::uint64_t g) { return std::uint64_t{1} << ((g - kLogFirst) % 64); };
  const auto in_log = [](std::uint64_t g) { return g - kLogFirst < kLogPages; };
  const auto write_all = [&] {
    for (const std::uint64_t g : gfns)
      if (!m.cpu_writes(g)) REQUIRE(m.touch(g, true) == Kind::Resume);
  };
  for (std::uint64_t first = 0; first <= words; ++first)
    for (std::uint64_t count = 0; first + count <= words; count += count < 2 || first + count + 1 == words ? 1 : 7) {
      CAPTURE(first);
      CAPTURE(count);
      write_all();
      m.host.flushes.clear();
      for (std::uint64_t& w : out) w = 0;
      REQUIRE(fetch(first, count, out).ok());
      std::uint64_t want[18] = {};
      for (const std::uint64_t g : gfns) {
        const std::uint64_t w = (g - kLogFirst) / 64;
        const bool taken = in_log(g) && w >= first && w < first + count;
        if (taken) want[w - first] |= bit_of(g);
        CAPTURE(g);
        if (taken) CHECK(m.host.flushed(g));
        if (method == DirtyMethod::WriteProtect)
          CHECK(m.writable(g) == !taken);
        else
          CHECK(((m.at(g).entry & arch::Ept::kDirty) != 0) == !taken);
      }
      for (std::uint64_t w = 0; w < count; ++w) CHECK(out[w] == want[w]);
    }
  for (std::uint64_t first = 0; first <= words + 1; ++first) {
    CHECK(fetch(first, words - first + 1, out).error() == Error::BadRange);
    CHECK(fetch(first, ~std::uint64_t{0}, out).error() == Error::BadRange);
  }
  CHECK(fetch(words + 1, 0, out).error() == Error::BadRange);
  m.audit();
}
TEST_CASE("F20 fetching words of a log: those, their pages, and no other; with the lock and as a reader") {
  SUBCASE("by write protection") { each_word(DirtyMethod::WriteProtect, false); }
  SUBCASE("by write protection, a reader") { each_word(DirtyMethod::WriteProtect, true); }
  SUBCASE("by D bits") { each_word(DirtyMethod::DirtyBit, false); }
  SUBCASE("by D bits, a reader") { each_word(DirtyMethod::DirtyBit, true); }
}
TEST_CASE("F20 clearing by mask: each bit alone, and its page; the others stay marked and writable") {
  for (const bool by_reader : {false, true}) {
    Machine m;
    const SlotId slot = m.mmu.add_slot(Gfn{37}, 200).value();
    REQUIRE(m.mmu.start_dirty_log(slot).ok());
    Mmu::Reader reader(m.mmu);
    for (unsigned bit = 0; bit < 64; ++bit) {
      for (std::uint64_t g = 37; g < 237; ++g) REQUIRE(m.touch(g, true) == Kind::Resume);
      m.host.flushes.clear();
      const std::uint64_t mask = std::uint64_t{1} << bit;
      REQUIRE((by_reader ? reader.clear_dirty_log(slot, 1, mask) : m.mmu.clear_dirty_log(slot, 1, mask)).ok());
      const std::uint64_t hit = 37 + 64 + bit;
      for (std::uint64_t g = 37; g < 237; ++g) CHECK(m.writable(g) == (g != hit));
      CHECK(m.host.flushed(hit));
      std::uint64_t words[4];
      REQUIRE(m.mmu.read_dirty_log(slot, 0, 4, words).ok());
      CHECK(words[0] == ~0ULL);
      CHECK(words[1] == ~mask);
      CHECK(words[2] == ~0ULL);
      CHECK(words[3] == 0xff);
    }
    m.audit();
  }
}
TEST_CASE("a leaf table costs its frame and its region's reverse map, and nothing for children that it never has") {
  constexpr std::uint64_t kRegions = 40;
  Machine m;
  REQUIRE(m.mmu.add_slot(Gfn{0}, (kRegions + 1) * 512).ok());
  REQUIRE(m.touch(0) == Kind::Resume);
  const std::uint64_t before = m.host.frames_used();
  for (std::uint64_t r = 1; r <= kRegions; ++r) REQUIRE(m.touch(r * 512) == Kind::Resume);
  // The reverse map of a region takes half a frame.
  CHECK(m.host.frames_used() - before >= kRegions + kRegions / 2);
  CHECK(m.host.frames_used() - before <= kRegions + kRegions / 2 + kRegions / 4);
}
TEST_CASE("F20 a word whose every page was written is fetched once: its marks go, its pages are protected") {
  for (const bool by_reader : {false, true}) {
    Machine m;
    const SlotId slot = m.mmu.add_slot(Gfn{37}, 64).value();
    REQUIRE(m.mmu.start_dirty_log(slot).ok());
    Mmu::Reader reader(m.mmu);
    const auto fetched = [&] {
      std::uint64_t word = 0;
      REQUIRE((by_reader ? reader.fetch_dirty_log(slot, 0, 1, &word) : m.mmu.fetch_dirty_log(slot, 0, 1, &word)).ok());
      return word;
    };
    for (int round = 0; round < 2; ++round) {
      for (std::uint64_t g = 37; g < 101; ++g) REQUIRE(m.touch(g, true) == Kind::Resume);
      CHECK(fetched() == ~0ULL);
      for (std::uint64_t g = 37; g < 101; ++g) CHECK_FALSE(m.writable(g));
      CHECK(fetched() == 0);
    }
    m.audit();
  }
}
TEST_CASE("F19 a page that may still be written by what a TLB knew before it was aged counts as written when it goes") {
  for (const bool accessed_dirty : {false, true}) {
    Mmu::Caps c;
    c.accessed_dirty = accessed_dirty;
    Machine m(1, c);
    REQUIRE(m.mmu.add_slot(Gfn{0}, 64).ok());
    REQUIRE(m.touch(5, true) == Kind::Resume);
    REQUIRE(m.cpu_writes(5));
    CHECK(m.mmu.clear_young(Gfn{5}, 1));
    m.host.told.clear();  // ageing flushes nothing: a CPU writes on
    m.mmu.unmap(Gfn{5}, 1);
    CHECK(m.host.told.count(5) == 1);
    CHECK(m.host.flushed(5));
  }
}
TEST_CASE("F20 what hardware's buffer names is in the log of its slot, first and last gfn included") {
  Machine m;
  const SlotId slot = m.mmu.add_slot(Gfn{37}, 200).value();
  REQUIRE(m.mmu.start_dirty_log(slot, DirtyMethod::DirtyBit).ok());
  for (const std::uint64_t g : {37U, 38U, 100U, 101U, 235U, 236U}) {
    const std::uint64_t gpas[] = {(g << 12) | 0xff8, 36ULL << 12, 237ULL << 12, 5000ULL << 12};
    m.mmu.drain_dirty_buffer(gpas, 4);
    std::uint64_t words[4];
    REQUIRE(m.mmu.fetch_dirty_log(slot, 0, 4, words).ok());
    for (unsigned w = 0; w < 4; ++w) CHECK(words[w] == ((g - 37) / 64 == w ? std::uint64_t{1} << ((g - 37) % 64) : 0));
  }
}
TEST_CASE("F20 a log that begins over large leaves takes W from each, tells of each whole and flushes it whole") {
  for (const unsigned level : {2U, 3U})
    for (const auto method : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit}) {
      const std::uint64_t n = Level{level}.frames();
      Machine m(level);
      const SlotId slot = m.mmu.add_slot(Gfn{n - 5}, n + 10).value();
      const Gfns gfns{n - 5, n - 1, n, 2 * n - 1, 2 * n, 2 * n + 4};
      for (const std::uint64_t g : gfns) REQUIRE(m.touch(g, true) == Kind::Resume);
      CHECK(m.at(n).level == Level{level});
      m.host.flushes.clear();
      REQUIRE(m.mmu.start_dirty_log(slot, method).ok());
      for (const std::uint64_t g : gfns) CHECK(m.host.flushed(g));
      CHECK(m.host.flushed(n + n / 2));
      CHECK_FALSE(m.writable(n));
      CHECK(m.host.told.count(n) + m.host.told.count(n + n / 2) + m.host.told.count(2 * n - 1) == 3);
      // A write splits it; what was only read stays clean.
      REQUIRE(m.touch(2 * n - 1, true) == Kind::Resume);
      CHECK(m.at(2 * n - 1).level == Level{1});
      std::vector<std::uint64_t> words(Mmu::dirty_log_words(n + 10));
      REQUIRE(m.mmu.fetch_dirty_log(slot, 0, words.size(), words.data()).ok());
      for (std::uint64_t i = 0; i < n + 10; ++i)
        if ((words[i / 64] >> (i % 64) & 1) != 0) CHECK(i == n + 4);
      CHECK((words[(n + 4) / 64] >> ((n + 4) % 64) & 1) == 1);
      REQUIRE(m.mmu.stop_dirty_log(slot).ok());
      REQUIRE(m.touch(n + 3, true) == Kind::Resume);
      if (level == 2) CHECK(m.at(n + 3).level == Level{2});
      m.audit();
    }
}
TEST_CASE("F20 a reader that takes a mark flushes its whole word, though no leaf says that the page may be written") {
  Machine m;
  REQUIRE(m.mmu.add_slot(Gfn{0}, 37).ok());
  const SlotId slot = m.mmu.add_slot(Gfn{37}, 64 * 20).value();
  REQUIRE(m.mmu.start_dirty_log(slot).ok());
  Mmu::Reader reader(m.mmu);
  std::uint64_t out[20];
  for (std::uint64_t word = 0; word < 20; ++word)
    for (const std::uint64_t bit : {0U, 31U, 63U}) {
      m.mmu.guest_wrote(address_of(Gfn{37 + word * 64 + bit}), 8);
      m.host.flushes.clear();
      REQUIRE(reader.fetch_dirty_log(slot, 0, 20, out).ok());
      CHECK(out[word] == std::uint64_t{1} << bit);
      for (std::uint64_t g = 0; g < 37 + 64 * 20; ++g)
        REQUIRE(m.host.flushed(g) == (g >= 37 + word * 64 && g < 37 + word * 64 + 64));
    }
  m.host.flushes.clear();
  REQUIRE(reader.fetch_dirty_log(slot, 0, 20, out).ok());
  CHECK(m.host.flushes.empty());
}
TEST_CASE("F20 a page that was only read is clean: no D, no mark; by D bits it may be written without a fault") {
  for (const auto method : {DirtyMethod::WriteProtect, DirtyMethod::DirtyBit}) {
    Machine m;
    const SlotId slot = m.mmu.add_slot(Gfn{0}, 128).value();
    REQUIRE(m.touch(5) == Kind::Resume);
    REQUIRE(m.mmu.start_dirty_log(slot, method).ok());
    REQUIRE(m.touch(6) == Kind::Resume);
    std::uint64_t words[2];
    REQUIRE(m.mmu.fetch_dirty_log(slot, 0, 2, words).ok());
    CHECK((words[0] | words[1]) == 0);
    CHECK(m.writable(6) == (method == DirtyMethod::DirtyBit));
    m.mmu.unmap(Gfn{0}, 128);
    CHECK(m.host.told.size() == 0);
  }
}
TEST_CASE("F15 when a log ends, the 4 KiB leaves go of regions that may be large again, each of them; others stay") {
  Mmu::Caps c;
  c.nx_huge = true;
  for (const unsigned level : {1U, 2U}) {
    Machine m(level, c);
    const SlotId slot = m.mmu.add_slot(Gfn{500}, 2048 - 500 + 12).value();  // ends of 12 gfns, three whole regions
    REQUIRE(m.vcpu->handle_fault(Gva{1030 << 12}, pferr::kFetch).kind == Kind::Resume);  // the second is code's
    REQUIRE(m.mmu.start_dirty_log(slot).ok());
    const auto whole = [level](std::uint64_t g) { return level == 2 && g >= 512 && g < 2048 && g / 512 != 2; };
    for (std::uint64_t g = 500; g < 2060; ++g) REQUIRE(m.touch(g, true) == Kind::Resume);
    REQUIRE(m.mmu.stop_dirty_log(slot).ok());
    for (std::uint64_t g = 500; g < 2060; ++g) REQUIRE(m.present(g) == !whole(g));
    for (const std::uint64_t g : {505U, 512U, 1023U, 1024U, 1535U, 1536U, 2047U, 2048U}) {
      REQUIRE(m.touch(g, true) == Kind::Resume);
      CHECK(m.at(g).level == Level{whole(g) ? 2U : 1U});
    }
    m.audit();
  }
  // A slot that ends with its last region.
  Machine m(2);
  const SlotId slot = m.mmu.add_slot(Gfn{512}, 512).value();
  REQUIRE(m.mmu.start_dirty_log(slot).ok());
  REQUIRE(m.touch(1023, true) == Kind::Resume);
  REQUIRE(m.mmu.stop_dirty_log(slot).ok());
  CHECK_FALSE(m.present(1023));
}
TEST_CASE("F31 eager splits reach the large leaves at both ends of a slot, and map every frame where it was") {
  for (const unsigned level : {2U, 3U}) {
    const std::uint64_t n = Level{level}.frames();
    Machine m(level);
    const std::uint64_t first = level == 2 ? n : kGib;
    const std::uint64_t pages = level == 2 ? 2 * n + 100 : kGib + 3;
    const SlotId slot = m.mmu.add_slot(Gfn{first}, pages).value();
    for (std::uint64_t g = first; g < first + pages; g += n) REQUIRE(m.touch(g, true) == Kind::Resume);
    m.host.flushes.clear();
    REQUIRE(m.mmu.split_large_pages(slot).ok());
    for (std::uint64_t g = first; g < first + pages / n * n; g += level == 2 ? 1 : 509) {
      REQUIRE(m.at(g).level == Level{1});
      REQUIRE(m.present(g));
      REQUIRE(m.host.flushed(g));
    }
    CHECK(m.host.told.size() == pages / n * n);
    m.mmu.unmap(Gfn{first + n - 1}, 1);
    CHECK_FALSE(m.present(first + n - 1));
    CHECK(m.present(first + n - 2));
    m.audit();
  }
}
TEST_CASE("F31 regions that code has split come back by budget, all of them in the end, the whole GiB last") {
  Mmu::Caps c;
  c.nx_huge = true;
  for (const unsigned level : {2U, 3U}) {
    Machine m(level, c);
    REQUIRE(m.mmu.add_slot(Gfn{kGib}, kGib).ok());
    const Gfns code{kGib, kGib + 512, kGib + 5 * 512 + 7, 2 * kGib - 1};
    for (const std::uint64_t g : code) REQUIRE(m.vcpu->handle_fault(Gva{g << 12}, pferr::kFetch).kind == Kind::Resume);
    for (const std::uint64_t g : code) CHECK(m.at(g).level == Level{1});
    for (std::uint64_t left = code.size(); left != 0; --left) {
      m.mmu.unmap(Gfn{0}, 3 * kGib);
      REQUIRE(m.touch(kGib + 100 * 512) == Kind::Resume);
      CHECK(m.at(kGib + 100 * 512).level == Level{2});  // no GiB while one of its regions is split
      CHECK(m.mmu.recover_exec_splits(1) == 1);
      m.audit();
    }
    CHECK(m.mmu.recover_exec_splits(9) == 0);
    m.mmu.unmap(Gfn{0}, 3 * kGib);
    REQUIRE(m.touch(kGib + 100 * 512) == Kind::Resume);
    CHECK(m.at(kGib + 100 * 512).level == Level{level});
    CHECK_FALSE(m.at(kGib + 100 * 512).rights.exec());
    // From the cursor on, and round again.
    for (unsigned round = 0; round < 3; ++round) {
      for (const std::uint64_t g : code)
        REQUIRE(m.vcpu->handle_fault(Gva{g << 12}, pferr::kFetch).kind == Kind::Resume);
      if (level == 3) CHECK_FALSE(m.present(kGib + 100 * 512));
      CHECK(m.mmu.recover_exec_splits(3) == 3);
      CHECK(m.mmu.recover_exec_splits(3) == 1);
    }
  }
}
TEST_SUITE_BEGIN("no policy");  // nothing is evicted here: once is enough
TEST_CASE("F38 the Host's memory type and kind are in the entry, at each size, and in what it is split into") {
  for (const unsigned level : {1U, 2U, 3U})
    for (const MemoryType type : {MemoryType::Uncached, MemoryType::WriteCombining, MemoryType::WriteThrough,
                                  MemoryType::WriteProtected, MemoryType::WriteBack})
      for (const auto kind : {Backing::Kind::Memory, Backing::Kind::Device, Backing::Kind::ReadOnly}) {
        Machine m(level);
        const SlotId slot = m.mmu.add_slot(Gfn{0}, kGib).value();
        m.host.type = type;
        m.host.kind = kind;
        REQUIRE(m.touch(5) == Kind::Resume);
        CHECK(m.at(5).level == Level{level});
        const std::uint64_t bits = static_cast<std::uint64_t>(type) << 3 | (kind == Backing::Kind::Device ? 0x40 : 0);
        CHECK((m.at(5).entry & 0x78) == bits);
        CHECK(m.writable(5) == (kind != Backing::Kind::ReadOnly));
        REQUIRE(m.mmu.split_large_pages(slot).ok());
        CHECK((m.at(5).entry & 0x78) == bits);
        CHECK(m.at(5).level == Level{1});
      }
}
TEST_SUITE_END();
TEST_CASE(
    "3.13 while a slot goes its gfns are retried and its neighbours served, first and last, whatever came before") {
  for (const bool move : {false, true})
    for (const std::uint64_t before : {509U, 600U, 1029U, 508U, 1030U}) {
      Machine m;
      REQUIRE(m.mmu.add_slot(Gfn{3}, 506).ok());
      const SlotId slot = m.mmu.add_slot(Gfn{509}, 521).value();
      REQUIRE(m.mmu.add_slot(Gfn{1030}, 510).ok());
      REQUIRE(m.touch(before) == Kind::Resume);
      unsigned asked = 0;
      m.host.kicked = [&] {
        asked += 1;
        CHECK(m.touch(before, true) == (before >= 509 && before < 1030 ? Kind::Retry : Kind::Resume));
        for (const std::uint64_t g : {508U, 509U, 510U, 1029U, 1030U, 509U}) {
          CAPTURE(g);
          CHECK(m.touch(g, true) == (g >= 509 && g < 1030 ? Kind::Retry : Kind::Resume));
        }
        CHECK(m.touch(4000) == Kind::Mmio);
      };
      REQUIRE((move ? m.mmu.move_slot(slot, Gfn{5000}) : m.mmu.remove_slot(slot)).ok());
      CHECK(asked == 1);
      for (const std::uint64_t g : {508U, 509U, 510U, 1029U, 1030U})
        CHECK(m.touch(g, true) == (g >= 509 && g < 1030 ? Kind::Mmio : Kind::Resume));
      m.audit();
    }
}
TEST_CASE("a slot that becomes read-only in the middle of a write fault is not written by it") {
  Slotted m;
  m.host.meddle = [&] { REQUIRE(m.mmu.set_slot_flags(m.slot, {true}).ok()); };
  CHECK(m.touch(600, true) == Kind::Retry);
  CHECK_FALSE(m.writable(600));
  CHECK(m.touch(600, true) == Kind::Mmio);
  REQUIRE(m.mmu.set_slot_flags(m.slot, {false}).ok());
  // And back: the reader that began before does not keep it read-only.
  CHECK(m.touch(600, true) == Kind::Resume);
  CHECK(m.writable(600));
  // Moved, it stays what it was.
  REQUIRE(m.mmu.set_slot_flags(m.slot, {true}).ok());
  REQUIRE(m.mmu.move_slot(m.slot, Gfn{5000}).ok());
  CHECK(m.touch(5600, true) == Kind::Mmio);
  CHECK(m.touch(5600) == Kind::Resume);
  CHECK_FALSE(m.writable(5600));
}
TEST_CASE(
    "a frame beyond the CPU's physical width is the Host's error, the first one and each above; those below map") {
  for (const unsigned width : {36U, 40U, 46U, 52U}) {
    Mmu::Caps c;
    c.host_address_bits = static_cast<std::uint8_t>(width);
    Machine m(1, c);
    REQUIRE(m.mmu.add_slot(Gfn{0}, 1000).ok());
    for (unsigned bit = 23; bit < 41; ++bit) {
      m.mmu.unmap(Gfn{0}, 1000);
      m.host.base = std::uint64_t{1} << bit;
      CHECK(m.touch(7) == (bit + 12 < width ? Kind::Resume : Kind::HostError));
      if (bit + 12 < width) CHECK(m.at(7).pfn == Pfn{std::uint64_t{1} << bit});
    }
  }
}
TEST_CASE("F27 an invalidation that begins and ends in the middle of a fault is not missed, at either border") {
  for (const std::uint64_t g : {3U, 512U, 1539U}) {
    Slotted m;
    m.host.meddle = [&] { m.mmu.unmap(Gfn{g}, 1); };
    CHECK(m.touch(g, true) == Kind::Retry);
    CHECK_FALSE(m.present(g));
    CHECK(m.touch(g, true) == Kind::Resume);
  }
}
TEST_CASE("a removed slot's log does not make the Mmu keep logs for others") {
  Machine m(2);
  const SlotId one = m.mmu.add_slot(Gfn{0}, 512).value();
  const SlotId two = m.mmu.add_slot(Gfn{512}, 512).value();
  REQUIRE(m.mmu.start_dirty_log(one).ok());
  REQUIRE(m.mmu.remove_slot(one).ok());
  REQUIRE(m.mmu.start_dirty_log(two, DirtyMethod::DirtyBit).ok());
  REQUIRE(m.touch(600, true) == Kind::Resume);
  m.mmu.unmap(Gfn{600});
  std::uint64_t words[8];
  REQUIRE(m.mmu.fetch_dirty_log(two, 0, 8, words).ok());
  CHECK(words[(600 - 512) / 64] == std::uint64_t{1} << (600 - 512) % 64);
}
}  // namespace
