// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/guest/format.hpp"
#include "shadowmmu/guest/paging.hpp"
#include "shadowmmu/result.hpp"

namespace shadowmmu::guest {

/// One walk of the guest's tables: the path, the rights gathered on it, and where it ends. Arrays by level; only what
/// the walk met is filled in, the rest is left as it was.
struct Walk {
  Walk() noexcept {}  // NOLINT(modernize-use-equals-default): must not clear 100 bytes on every fault

  std::uint64_t gpte[5];       ///< entry read at each level down to `level`
  std::uint64_t frame[5];      ///< guest frame of the table read at each level
  std::uint16_t index[5];      ///< entry within it
  std::uint8_t granted[5];     ///< rights that the levels above grant
  std::uint8_t level = 1;      ///< level of the entry that maps the page
  const void* leaf = nullptr;  ///< where the entry at `level` was read
  Gfn gfn{};                   ///< 4 KiB frame of the access
  Access rights{};             ///< of the mapping; without W while a write has still to set the leaf's D bit
  bool clean = false;          ///< above level 1: a write has still to set the leaf's D bit
  std::uint32_t error_code = 0;

  [[nodiscard]] Gfn table(unsigned l) const noexcept { return Gfn{frame[l]}; }
  /// Rights of that table's shadow page.
  [[nodiscard]] Access above(unsigned l) const noexcept { return Access{granted[l]}; }
};

/// How a walk ended.
enum class WalkEnd : std::uint8_t {
  Found,
  Fault,  ///< `error_code` is what the guest must see
};

/// Reader: `const void* page(Gfn)` (nullptr outside memory), `load<T>(const T*)`, `exchange(Gpa, bytes, old, new)`,
/// `bool keeps_bits(Gfn)` (a table in ROM).
template <class Format, class Reader>
class Walker {
 public:
  using Entry = typename Format::Entry;

  /// Effects: walks from `root`, checks rights, sets A on the whole path and D for a write, by compare-exchange,
  /// starting over where an update is lost. Entries in unreadable frames count as not present.
  /// Complexity: one load a level, no store where A (and D) are set. Source: SDM vol. 3, 4.6 to 4.8.
  [[nodiscard]] static WalkEnd run(const Paging& p, Reader& reader, Gfn root, Gva a, AccessRequest request,
                                   bool smap_enforced, Walk& w) noexcept {
    for (;;) {
      const Step s = attempt(p, reader, root, a, request, smap_enforced, w);
      if (s == Step::Found) return WalkEnd::Found;
      if (s == Step::Fault) return WalkEnd::Fault;
    }
  }

 private:
  enum class Step : std::uint8_t { Found, Fault, Lost };

  /// What stays the same on the way down.
  struct Ask {
    const Paging& paging;
    Reader& reader;
    Gva address;
    AccessRequest request;
    bool smap_enforced;
    std::uint32_t code;
  };

  static Step attempt(const Paging& p, Reader& reader, Gfn root, Gva a, AccessRequest request, bool smap_enforced,
                      Walk& w) noexcept {
    const std::uint32_t code = (request.write ? pferr::kWrite : 0U) | (request.user ? pferr::kUser : 0U) |
                               (request.fetch && p.reports_fetch() ? pferr::kFetch : 0U);
    return descend<Format::kTopLevel>(Ask{p, reader, a, request, smap_enforced, code}, root, Access::all(),
                                      kEntryAccessed, w);
  }
  template <unsigned L>
  [[gnu::always_inline]] static Step descend(const Ask& ask, Gfn table, Access rights, std::uint64_t all,
                                             Walk& w) noexcept {
    const unsigned i = Format::index(ask.address, L);
    w.frame[L] = table.value();
    w.index[L] = static_cast<std::uint16_t>(i);
    w.granted[L] = static_cast<std::uint8_t>(rights.bits());
    const void* page = ask.reader.page(table);
    const Entry* at = page == nullptr ? nullptr : static_cast<const Entry*>(page) + i;
    const std::uint64_t e = at == nullptr ? 0 : ask.reader.load(at);
    w.gpte[L] = e;
    if constexpr (L > 1) {
      if (!ask.paging.plain_table(e, L)) [[unlikely]] {
        if ((e & kEntryPresent) == 0) return fault(w, ask.code);
        if (ask.paging.reserved_set(e, L)) return fault(w, ask.code | pferr::kPresent | pferr::kReserved);
        if (ask.paging.maps_page(e, L)) return arrive<L>(ask, at, e, rights & ask.paging.grants(e), all & e, w);
      }
      return descend<L - 1>(ask, Format::frame(e), rights & ask.paging.grants(e), all & e, w);
    } else {
      if ((e & kEntryPresent) == 0) return fault(w, ask.code);
      if (ask.paging.reserved_set(e, L)) return fault(w, ask.code | pferr::kPresent | pferr::kReserved);
      return arrive<L>(ask, at, e, rights & ask.paging.grants(e), all & e, w);
    }
  }
  template <unsigned L>
  [[gnu::always_inline]] static Step arrive(const Ask& ask, const void* at, std::uint64_t leaf, Access rights,
                                            std::uint64_t all, Walk& w) noexcept {
    w.level = L;
    w.leaf = at;
    const bool write = ask.request.write;
    if (ask.paging.refuses(rights, ask.request, ask.smap_enforced)) return fault(w, ask.code | pferr::kPresent);
    const bool dirty = (leaf & kEntryDirty) != 0;
    const bool sets_dirty = write && !dirty;
    w.clean = !write && !dirty;
    // What a large page's entry grants must be the same to a read and to a write, since one instruction may do both: a
    // table in ROM never gets D, so that nothing has to be set first.
    if constexpr (L > 1)
      w.clean = w.clean && !((rights.write() || !ask.paging.wp()) && ask.reader.keeps_bits(w.table(L)));
    w.rights = w.clean ? rights.without(Access::kWrite) : rights;
    if ((all & kEntryAccessed) == 0 || sets_dirty) {
      if (!update(ask.reader, write, w)) return Step::Lost;
    }
    w.gfn = Format::page_frame(leaf, L, ask.address);
    return Step::Found;
  }
  static Step fault(Walk& w, std::uint32_t code) noexcept {
    w.error_code = code;
    return Step::Fault;
  }
  /// Returns: false where an entry changed under us.
  static bool update(Reader& reader, bool write, Walk& w) noexcept {
    for (unsigned level = Format::kTopLevel; level >= w.level; --level) {
      const std::uint64_t old = w.gpte[level];
      const std::uint64_t now = old | kEntryAccessed | (write && level == w.level ? kEntryDirty : 0);
      if (now == old) continue;
      const Gpa at = address_of(w.table(level)) + w.index[level] * sizeof(Entry);
      switch (reader.exchange(at, sizeof(Entry), old, now)) {
        case GuestExchange::Done:
          w.gpte[level] = now;
          break;
        case GuestExchange::Lost:
          return false;
        case GuestExchange::ReadOnly:
          break;  // tables in ROM keep their bits; the access goes on
      }
    }
    return true;
  }
};

}  // namespace shadowmmu::guest
