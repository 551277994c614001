// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/guest/format.hpp"
#include "shadowmmu/guest/paging.hpp"
#include "shadowmmu/result.hpp"

namespace shadowmmu::guest {

/// One walk of the guest's tables: the path, the rights gathered on it, and where it ends. Arrays by level.
struct Walk {
  std::uint64_t gpte[5];     ///< entry read at each level down to `level`
  Gfn table[5];              ///< frame of the table read at each level
  unsigned index[5];         ///< entry within it
  Access above[5];           ///< rights that the levels above grant: the role of that table's shadow page
  unsigned level = 1;        ///< level of the entry that maps the page
  Gfn gfn{};                 ///< 4 KiB frame of the access
  Access rights{};           ///< of the mapping; without W while the leaf's D bit is clear
  std::uint32_t error_code = 0;
};

/// How a walk ended.
enum class WalkEnd : std::uint8_t {
  Found,
  Fault,  ///< `error_code` is what the guest must see
};

/// Reader: `const void* page(Gfn)` (nullptr outside memory), `load<T>(const T*)`, `exchange(Gpa, bytes, old, new)`.
template <class Format, class Reader>
class Walker {
 public:
  using Entry = typename Format::Entry;

  /// Effects: walks from `root`, checks rights, sets A on the whole path and D for a write, by compare-exchange,
  /// starting over where an update is lost. Entries in unreadable frames count as not present.
  /// Complexity: one load a level, no store where A (and D) are set. Source: SDM vol. 3, 4.6 to 4.8.
  [[nodiscard]] static WalkEnd run(const Paging& p, Reader& reader, Gfn root, Gva a, AccessRequest request, bool smap_enforced,
                                   Walk& w) noexcept {
    for (;;) {
      const Step s = attempt(p, reader, root, a, request, smap_enforced, w);
      if (s == Step::Found) return WalkEnd::Found;
      if (s == Step::Fault) return WalkEnd::Fault;
    }
  }

 private:
  enum class Step : std::uint8_t { Found, Fault, Lost };

  static Step attempt(const Paging& p, Reader& reader, Gfn root, Gva a, AccessRequest request, bool smap_enforced,
                      Walk& w) noexcept {
    Access rights = Access::all();
    Gfn table = root;
    std::uint64_t all = kEntryAccessed;
    const std::uint32_t code =
        (request.write ? pferr::kWrite : 0U) | (request.user ? pferr::kUser : 0U) |
        (request.fetch && p.reports_fetch() ? pferr::kFetch : 0U);
    for (unsigned level = Format::kTopLevel;; --level) {
      const unsigned i = Format::index(a, level);
      w.table[level] = table;
      w.index[level] = i;
      w.above[level] = rights;
      const void* page = reader.page(table);
      const std::uint64_t e = page == nullptr ? 0 : reader.load(static_cast<const Entry*>(page) + i);
      w.gpte[level] = e;
      if ((e & kEntryPresent) == 0) return fault(w, code);
      if (p.reserved_set(e, level)) return fault(w, code | pferr::kPresent | pferr::kReserved);
      rights = rights & p.grants(e);
      all &= e;
      if (p.maps_page(e, level)) {
        w.level = level;
        break;
      }
      table = Format::frame(e);
    }
    if (p.refuses(rights, request, smap_enforced)) return fault(w, code | pferr::kPresent);
    const std::uint64_t leaf = w.gpte[w.level];
    const bool sets_dirty = request.write && (leaf & kEntryDirty) == 0;
    if ((all & kEntryAccessed) == 0 || sets_dirty) {
      if (!update(reader, request.write, w)) return Step::Lost;
    }
    w.gfn = Format::page_frame(leaf, w.level, a);
    w.rights = (w.gpte[w.level] & kEntryDirty) != 0 || request.write ? rights : rights.without(Access::kWrite);
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
      const Gpa at = address_of(w.table[level]) + w.index[level] * sizeof(Entry);
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
