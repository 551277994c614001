// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

#include "shadowmmu/sim/random.hpp"
#include "shadowmmu/sim/world/guest.hpp"
#include "shadowmmu/sim/world/machine.hpp"

/// What a guest is made of at the begin: address spaces of each paging mode, which addresses it plays with, where its
/// tables and data lie. Chosen so that what MMUs get wrong is near: tables that are shared, that lie inside of what a
/// large page maps or at its begin; memory that is mapped twice with other rights; first and last entries; no memory.
namespace shadowmmu::sim::world {

class Layout {
 public:
  /// `behind`: the guest's data lie behind the first 2 MiB, which are one slot's.
  explicit Layout(bool behind) : data_(behind ? 512 : 200) {}

  /// The guest's data begin here, and mostly lie in the hundred frames from here on.
  [[nodiscard]] std::uint64_t data() const noexcept { return data_; }
  static constexpr std::uint64_t kMany = 0x0061'0000, kManyPages = 96;  ///< pages that one frame serves
  /// Returns: the address of a page that leads to no memory.
  [[nodiscard]] static std::uint64_t device(std::uint64_t choice) noexcept {
    return kDevices[choice % std::size(kDevices)];
  }
  /// Returns: a frame that a guest's page may lead to: mostly data; now and then the last or first of a slot, of a
  /// host page, of a word of a log, or of what an MMU's own entries can name; or what no slot owns.
  [[nodiscard]] std::uint64_t some_frame(std::uint64_t choice) const noexcept {
    const std::uint64_t ends[] = {data_ + 59,
                                  data_ + 60,
                                  data_ + 89,
                                  data_ + 90,
                                  255,
                                  data_ + 90 + 63,
                                  1023,
                                  1024,
                                  1535,
                                  GuestMap::kLowPages - 1,
                                  GuestMap::kBig,
                                  GuestMap::kBig + 511,
                                  GuestMap::kBig + GuestMap::kBigPages - 1,
                                  GuestMap::kHigh,
                                  GuestMap::kHigh + GuestMap::kHighPages - 1};
    constexpr std::uint64_t kNobodys[] = {
        GuestMap::kLowPages, GuestMap::kLow + 3, GuestMap::kBig - 1, 0x90000, GuestMap::kHigh + GuestMap::kHighPages,
        0xffff'ffff,         0x1'0000'0000,      0x3'ffff'ffff};
    const std::uint64_t x = choice >> 16;
    switch (choice >> 8 & 15) {
      case 0:
      case 1:
        return ends[x % std::size(ends)];
      case 2:
      case 3:
        return kNobodys[x % std::size(kNobodys)];
      default:
        return data_ + x % 100;
    }
  }
  /// Returns: addresses that the guest plays with: some share leaf tables, some whole directories, some nothing; some
  /// are parts of large pages.
  [[nodiscard]] const std::vector<std::uint64_t>& addresses(Mode m) const {
    return addresses_[static_cast<unsigned>(m)];
  }

  /// Effects: writes the guest's tables. `seed`: chooses where PDPTs lie.
  void build(Guest<Machine>& g, std::uint64_t seed) {
    Random rng(seed);
    for (unsigned r = 0; r < Guest<Machine>::kRoots; ++r)
      for (const Mode m : {Mode::Long4, Mode::Pae, Mode::Bits32}) {
        std::uint64_t root = g.next_frame++ << 12;
        // One root lies apart from the tables below it.
        if (m == Mode::Long4 && r == 1) root = (GuestMap::kBigTables + 1) << 12;
        if (m == Mode::Pae) root += rng.below(128) * 32;  // a PDPT may lie at any 32-byte place
        g.roots[static_cast<unsigned>(m)][r] = root;
        if (m == Mode::Bits32)
          for (std::uint64_t f = 0; f < 1024; ++f) g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67);
        else
          for (std::uint64_t f = 0; f < GuestMap::kLow; f += 512)
            g.map(m, root, Guest<Machine>::kLinear + (f << 12), f, 0x67, 2);
        share_tables(g, m, r, root);
        for (const std::uint64_t a : addresses(m))
          if (a - kLarge >= kLargeSpan && (r == 0 || a % kFar != 0) && a - kHuge >= (1U << 30) &&
              (m != Mode::Pae || a >> 21 != kFirst >> 21) && a - kMany >= (kManyPages << 12))
            g.map(m, root, a, leads_nowhere(a) ? 0xfee00 + (a >> 12) % 8 : data_ + (a >> 12) % 40 + r * 40,
                  flags_of_page(m, (a >> 12) + r));
        // One frame for many pages, as where a guest has given them no memory of their own yet.
        for (std::uint64_t i = 0; i < kManyPages; ++i) g.map(m, root, kMany + (i << 12), data_ + 39, 5);
        // The same memory twice, once not for all; one page, and what may be one in the middle of low memory.
        const std::uint64_t step = m == Mode::Bits32 ? 1024 : 512;
        g.map(m, root, kLarge, GuestMap::kBig + step * (r + 1), 7, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (1U << 21), GuestMap::kHigh + r, 7);
        g.map(m, root, kLarge + (1U << 22), GuestMap::kBig + step * (r + 1), r == 0 ? 5 : r == 1 ? 0x65 : 1, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (3U << 21), 1024, 7, 2);
        if (m != Mode::Bits32) g.map(m, root, kLarge + (4U << 21), 1024, r == 0 ? 5 : 3, 2);
        if (m == Mode::Long4) g.map(m, root, kHuge, GuestMap::kBig, r == 1 ? 5 : 7, 3);
      }
    g.table_end = g.next_frame;
  }

 private:
  /// Mostly all rights; some pages are read-only, some the supervisor's. Some have A and D from the begin, some are no
  /// code, and some of 4-level tables bear a bit of the guest's own, which PAE reserves.
  [[nodiscard]] static std::uint64_t flags_of_page(Mode m, std::uint64_t n) {
    constexpr std::uint64_t kFlags[] = {7, 7, 0x67, 5, 7, 3, 0x67, 0x21, 7, 0x65, 7};
    std::uint64_t flags = kFlags[n % std::size(kFlags)];
    if (m != Mode::Bits32 && n % 5 == 3) flags |= std::uint64_t{1} << 63;
    if (m == Mode::Long4 && n % 6 == 4) flags |= std::uint64_t{1} << 58;
    return flags;
  }
  static constexpr std::uint64_t kDevices[] = {0x0060'3000, 0x0040'2000, 0x8000'1000};
  [[nodiscard]] static bool leads_nowhere(std::uint64_t a) noexcept {
    return a == kDevices[0] || a == kDevices[1] || a == kDevices[2];
  }
  /// Leaf tables that lie where a large page could begin, inside of one, and in two paging modes at once.
  void share_tables(Guest<Machine>& g, Mode m, unsigned r, std::uint64_t root) {
    if (m == Mode::Bits32) return;
    if (m == Mode::Long4) shared_[r] = r == 0 ? GuestMap::kZeroTable : r == 2 ? GuestMap::kBigTables : g.next_frame++;
    g.put(m, root, kFirst, 2, shared_[r] << 12 | 7);
  }
  static constexpr std::uint64_t kFar = std::uint64_t{1} << 43;  ///< pages that share no table but the root
  static constexpr std::uint64_t kFirst = 0x0040'0000;           ///< where pages of the guest's begin
  static constexpr std::uint64_t kLarge = 0x9000'0000, kLargeSpan = 1U << 24;  ///< large pages of the guest
  static constexpr std::uint64_t kHuge = 0x1'4000'0000;                        ///< 1 GiB
  [[nodiscard]] static std::vector<std::uint64_t> all_addresses(Mode m) {
    std::vector<std::uint64_t> v;
    if (m == Mode::Flat) return v;
    for (std::uint64_t i = 0; i < 6; ++i) v.push_back(kFirst + i * 0x1000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x0060'0000 + i * 0x3000);
    for (std::uint64_t i = 0; i < 3; ++i) v.push_back(0x8000'0000 + i * 0x1000);
    for (const std::uint64_t i : {std::uint64_t{0}, kManyPages - 1}) v.push_back(kMany + (i << 12));
    v.push_back(0x005f'f000);  // the last entry of a table
    v.push_back(0x3fff'f000);  // and of the table above
    for (const unsigned i : {0U, 0x5000U, 0x1f'f000U, 0x20'0000U, 0x40'0000U, 0x5f'f000U, 0x60'3000U, 0x80'3000U})
      if (m != Mode::Bits32 || i < 0x80'0000) v.push_back(kLarge + i);
    if (m == Mode::Long4) {
      for (std::uint64_t i = 0; i < 4; ++i) v.push_back(0xffff'8000'0000'0000 + i * 0x2000);
      for (const unsigned i : {0U, 0x0123'4000U, 0x3fff'f000U}) v.push_back(kHuge + i);
      for (std::uint64_t i = 1; i < 5; ++i) v.push_back(kFar * i);
    }
    return v;
  }

  std::uint64_t data_;
  std::array<std::vector<std::uint64_t>, 4> addresses_{all_addresses(Mode::Long4), all_addresses(Mode::Pae),
                                                       all_addresses(Mode::Bits32), all_addresses(Mode::Flat)};
  std::uint64_t shared_[Guest<Machine>::kRoots] = {};  ///< leaf tables that two paging modes share
};

}  // namespace shadowmmu::sim::world
