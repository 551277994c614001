// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <string>
#include <vector>

#include "shadowmmu/sim/oracle.hpp"
#include "support/test_host.hpp"

namespace shadowmmu::test {

enum class Mode : unsigned { Long4, Pae, Bits32, Flat };

inline std::uint64_t frame_bits(Mode m) { return m == Mode::Bits32 ? 0xffff'f000U : 0x000f'ffff'ffff'f000U; }

/// The guest's own view: registers, roots of each mode, and raw paths through its tables.
struct GuestModel {
  static constexpr std::uint64_t kLinear = 0xc000'0000;  ///< all of guest memory is mapped here, in every mode
  static constexpr unsigned kRoots = 3;
  static constexpr unsigned kMaxPhys = 46;

  explicit GuestModel(TestHost& h) : host(h) {}

  TestHost& host;
  Mode mode = Mode::Flat;
  Controls controls{};
  std::uint64_t cr3 = 0;
  std::array<std::uint64_t, 4> pdptes{};
  std::uint64_t roots[3][kRoots] = {};
  std::uint64_t next_frame = 16;
  std::uint64_t table_end = 0;  ///< table frames are [16, table_end)

  [[nodiscard]] unsigned width() const { return mode == Mode::Bits32 ? 4U : 8U; }

  struct Step {
    unsigned level;
    Gpa at;
    std::uint64_t entry;
  };
  /// The entries that a walk for `a` meets, uppermost first, whatever they allow; ends where one leads nowhere.
  [[nodiscard]] std::vector<Step> path(std::uint64_t a) const {
    std::vector<Step> steps;
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
      const std::uint64_t i =
          mode == Mode::Bits32 ? (a >> (level == 2 ? 22 : 12) & 1023) : (a >> (12 + 9 * (level - 1)) & 511);
      Step s{level, Gpa{table + i * width()}, 0};
      if (!host.read(s.at, width(), s.entry)) return steps;
      steps.push_back(s);
      const bool large =
          (s.entry & 0x80) != 0 && (mode != Mode::Bits32 || (controls.cr4 & cr4::kPse) != 0) && level <= 3;
      if ((s.entry & 1) == 0 || level == 1 || large) return steps;
      table = s.entry & frame_bits(mode);
    }
  }
  [[nodiscard]] sim::OracleVerdict oracle(std::uint64_t a, AccessRequest r, CpuMode m) const {
    sim::OracleCpu cpu;
    cpu.controls = controls;
    cpu.cr3 = cr3;
    cpu.pdptes = pdptes;
    cpu.max_phys_addr = kMaxPhys;
    return sim::Oracle<TestHost>(host, cpu).translate(Gva{a}, sim::OracleAccess{r, m, false});
  }
  /// Where `a` leads if rights are not asked about.
  [[nodiscard]] sim::OracleVerdict raw(std::uint64_t a) const {
    GuestModel lax = *this;
    lax.controls.cr0 &= ~cr0::kWp;
    lax.controls.cr4 &= ~(cr4::kSmep | cr4::kSmap);
    return lax.oracle(a, AccessRequest{}, CpuMode{0, true});
  }

  /// Effects: maps a in the tables below `root`, making tables as needed.
  void map(Mode m, std::uint64_t root, std::uint64_t a, std::uint64_t gfn, std::uint64_t flags, unsigned leaf = 1) {
    std::uint64_t table = root;
    unsigned level = m == Mode::Long4 ? 4 : m == Mode::Pae ? 3 : 2;
    const unsigned bytes = m == Mode::Bits32 ? 4 : 8;
    for (;; --level) {
      std::uint64_t i = m == Mode::Bits32 ? (a >> (level == 2 ? 22 : 12) & 1023) : (a >> (12 + 9 * (level - 1)) & 511);
      if (m == Mode::Pae && level == 3) i &= 3;
      const Gpa at{table + i * bytes};
      std::uint64_t e = 0;
      static_cast<void>(host.read(at, bytes, e));
      if (level == leaf) {
        static_cast<void>(host.write(at, bytes, gfn << 12 | flags | (leaf > 1 ? 0x80U : 0U)));
        return;
      }
      if ((e & 1) == 0) {
        e = next_frame++ << 12 | (m == Mode::Pae && level == 3 ? 1U : 7U);
        static_cast<void>(host.write(at, bytes, e));
      }
      table = e & frame_bits(m);
    }
  }
};

}  // namespace shadowmmu::test
