// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <string>

#include "shadowmmu/sim/oracle.hpp"
#include "shadowmmu/types.hpp"

/// A guest as it sees itself: control registers, address spaces of each paging mode, and raw paths through its own
/// tables. It asks nobody but its memory and the oracle.
namespace shadowmmu::sim::world {

enum class Mode : unsigned { Long4, Pae, Bits32, Flat };

[[nodiscard]] constexpr std::uint64_t frame_bits(Mode m) noexcept {
  return m == Mode::Bits32 ? 0xffff'f000U : 0x000f'ffff'ffff'f000U;
}
[[nodiscard]] constexpr const char* name_of(Mode m) noexcept {
  constexpr const char* kNames[] = {"4-level", "PAE", "32-bit", "no paging"};
  return kNames[static_cast<unsigned>(m)];
}

/// One access, as far as rights depend on it.
struct Reach {
  AccessRequest request{};
  CpuMode mode{};
  bool implicit = false;  ///< the CPU's own access to a system structure: SMAP refuses it whatever RFLAGS.AC says
};
/// Every kind of access: read, write, fetch; by the user, by the supervisor, and by him with AC set.
inline constexpr Reach kEveryReach[] = {
    {{false, false, true}, {3, false}},  {{true, false, true}, {3, false}},  {{false, true, true}, {3, false}},
    {{false, false, false}, {0, false}}, {{true, false, false}, {0, false}}, {{false, true, false}, {0, false}},
    {{false, false, false}, {0, true}},  {{true, false, false}, {0, true}},
};

/// An entry that a walk meets.
struct Step {
  unsigned level = 0;
  Gpa at{};
  std::uint64_t entry = 0;
  unsigned index = 0;
};

/// The entries of one walk, uppermost first.
class Path {
 public:
  [[nodiscard]] const Step* begin() const noexcept { return steps_.data(); }
  [[nodiscard]] const Step* end() const noexcept { return steps_.data() + size_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] const Step& operator[](std::size_t i) const noexcept { return steps_[i]; }
  [[nodiscard]] const Step& back() const noexcept { return steps_[size_ - 1]; }
  void add(const Step& s) noexcept { steps_[size_++] = s; }
  /// Returns: the place of the n-th step as a reader of page tables says it: pml4[3].pdpt[0].pd[7].
  [[nodiscard]] std::string place(std::size_t n) const {
    constexpr const char* kTables[] = {"", "pt", "pd", "pdpt", "pml4"};
    std::string s;
    for (std::size_t i = 0; i <= n && i < size_; ++i)
      s += (i == 0 ? "" : ".") + std::string(kTables[steps_[i].level]) + "[" + std::to_string(steps_[i].index) + "]";
    return s;
  }

 private:
  std::array<Step, 4> steps_{};
  std::size_t size_ = 0;
};

template <class Memory>
struct Guest {
  static constexpr std::uint64_t kLinear = 0xc000'0000;  ///< low guest memory is mapped here, in every paging mode
  static constexpr unsigned kRoots = 3;
  static constexpr unsigned kMaxPhys = 46;

  explicit Guest(Memory& m) : host(m) {}

  Memory& host;
  Mode mode = Mode::Flat;
  Controls controls{};
  std::uint64_t cr3 = 0;
  std::array<std::uint64_t, 4> pdptes{};
  std::uint64_t roots[3][kRoots] = {};
  static constexpr std::uint64_t kFirstFrame = 16;
  std::uint64_t next_frame = kFirstFrame;
  std::uint64_t table_end = 0;  ///< frames that map() took for tables are [kFirstFrame, table_end)

  /// Returns: which entry of a table of that level a walk for `a` takes.
  [[nodiscard]] static std::uint64_t index(Mode m, std::uint64_t a, unsigned level) noexcept {
    return m == Mode::Bits32 ? (a >> (level == 2 ? 22 : 12) & 1023) : (a >> (12 + 9 * (level - 1)) & 511);
  }
  [[nodiscard]] unsigned width() const { return mode == Mode::Bits32 ? 4U : 8U; }

  /// Returns: the entries that a walk for `a` meets, uppermost first, whatever they allow; ends where one leads
  /// nowhere. The PDPTE registers of PAE mode are no entries.
  [[nodiscard]] Path path(std::uint64_t a) const {
    Path steps;
    std::uint64_t table = 0;
    unsigned level = 0;
    switch (mode) {
      case Mode::Flat:
        return steps;
      case Mode::Long4:
        table = cr3 & 0x000f'ffff'ffff'f000;
        level = 4;
        break;
      case Mode::Pae:
        if ((pdptes[a >> 30 & 3] & 1) == 0) return steps;
        table = pdptes[a >> 30 & 3] & 0x000f'ffff'ffff'f000;
        level = 2;
        break;
      case Mode::Bits32:
        table = cr3 & 0xffff'f000;
        level = 2;
        break;
    }
    for (;; --level) {
      const std::uint64_t i = index(mode, a, level);
      Step s{level, Gpa{table + i * width()}, 0, static_cast<unsigned>(i)};
      if (!host.read(s.at, width(), s.entry)) return steps;
      steps.add(s);
      const bool large =
          (s.entry & 0x80) != 0 && (mode != Mode::Bits32 || (controls.cr4 & cr4::kPse) != 0) && level <= 3;
      if ((s.entry & 1) == 0 || level == 1 || large) return steps;
      table = s.entry & frame_bits(mode);
    }
  }
  /// Returns: the PDPTE that the next load of CR3 gives to `a`; nothing but in PAE mode.
  [[nodiscard]] Path pdpte(std::uint64_t a) const {
    Path steps;
    const unsigned i = static_cast<unsigned>(a >> 30 & 3);
    Step s{3, Gpa{(cr3 & 0xffff'ffe0U) + i * 8}, 0, i};
    if (mode == Mode::Pae && host.read(s.at, 8, s.entry)) steps.add(s);
    return steps;
  }
  [[nodiscard]] sim::OracleVerdict oracle(std::uint64_t a, AccessRequest r, CpuMode m, bool implicit = false) const {
    return sim::Oracle<Memory>(host, cpu()).translate(Gva{a}, sim::OracleAccess{r, m, implicit});
  }
  /// Returns: where `a` leads if rights are not asked about.
  [[nodiscard]] sim::OracleVerdict raw(std::uint64_t a, bool write) const {
    sim::OracleCpu lax = cpu();
    lax.controls.cr0 &= ~cr0::kWp;
    lax.controls.cr4 &= ~(cr4::kSmep | cr4::kSmap);
    return sim::Oracle<Memory>(host, lax).translate(
        Gva{a}, sim::OracleAccess{AccessRequest{write, false, false}, CpuMode{0, true}, false});
  }

  /// Effects: maps a in the tables below `root`, making tables as needed.
  void map(Mode m, std::uint64_t root, std::uint64_t a, std::uint64_t gfn, std::uint64_t flags, unsigned leaf = 1) {
    put(m, root, a, leaf, gfn << 12 | flags | (leaf > 1 ? 0x80U : 0U));
  }
  /// Effects: the entry of that level that a walk for `a` meets is `entry`; tables above are made as needed.
  void put(Mode m, std::uint64_t root, std::uint64_t a, unsigned leaf, std::uint64_t entry) {
    std::uint64_t table = root;
    unsigned level = m == Mode::Long4 ? 4 : m == Mode::Pae ? 3 : 2;
    const unsigned bytes = m == Mode::Bits32 ? 4 : 8;
    for (;; --level) {
      std::uint64_t i = index(m, a, level);
      if (m == Mode::Pae && level == 3) i &= 3;
      const Gpa at{table + i * bytes};
      std::uint64_t e = 0;
      static_cast<void>(host.read(at, bytes, e));
      if (level == leaf) {
        static_cast<void>(host.write(at, bytes, entry));
        return;
      }
      if ((e & 1) == 0) {
        e = next_frame++ << 12 | (m == Mode::Pae && level == 3 ? 1U : 7U);
        static_cast<void>(host.write(at, bytes, e));
      }
      table = e & frame_bits(m);
    }
  }

 private:
  [[nodiscard]] sim::OracleCpu cpu() const {
    sim::OracleCpu c;
    c.controls = controls;
    c.cr3 = cr3;
    c.pdptes = pdptes;
    c.max_phys_addr = kMaxPhys;
    return c;
  }
};

}  // namespace shadowmmu::sim::world
