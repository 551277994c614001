// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <utility>

#include "shadowmmu/arch/ept.hpp"
#include "shadowmmu/arch/x86_64.hpp"

/// F38: the Host's memory type in entries of each format, whatever else they say and whatever becomes of them.
namespace {
using namespace shadowmmu;

constexpr MemoryType kTypes[] = {MemoryType::Uncached, MemoryType::WriteCombining, MemoryType::WriteThrough,
                                 MemoryType::WriteProtected, MemoryType::WriteBack};

/// Calls f(caps, entry) for every leaf that can be made of this type.
template <class A, class F>
void each_leaf(MemoryType type, bool device, F&& f) {
  for (unsigned rights = 0; rights < 8; ++rights)
    for (unsigned level = 1; level <= 3; ++level)
      for (unsigned flags = 0; flags < 16; ++flags)
        for (unsigned c = 0; c < 4; ++c) {
          typename A::Caps caps;
          if constexpr (requires { caps.accessed_dirty; }) {
            caps.accessed_dirty = (c & 1) != 0;
            caps.exec_only = (c & 2) != 0;
          } else {
            caps.host_address_bits = (c & 1) != 0 ? 52 : 40;
          }
          LeafSpec s;
          s.pfn = Pfn{0x8'0000};
          s.rights = Access{rights};
          s.level = Level{level};
          s.type = type;
          s.device = device;
          s.host_writable = (flags & 1) != 0;
          s.mmu_writable = (flags & 2) != 0;
          s.accessed = (flags & 4) != 0;
          s.dirty = (flags & 8) != 0;
          f(caps, A::make_leaf(caps, s), s);
        }
}
/// Calls f(entry) for what the leaf may become: aged, protected, dirty, restored, narrowed, split.
template <class A, class F>
void each_change(const typename A::Caps& c, std::uint64_t e, Level level, F&& f) {
  f(A::without_write(e));
  f(A::write_protected(e));
  f(A::with_dirty(c, e));
  f(A::without_dirty(c, e));
  f(A::without_accessed(c, e));
  f(A::aged(c, e));
  f(A::restored(c, e));
  for (unsigned r = 0; r < 8; ++r) f(A::with_rights(e, Access{r}));
  if (level == Level{1}) return;
  for (const unsigned n : {0U, 1U, 255U, 511U}) f(A::split(e, level.down(), n));
}

TEST_CASE("a leaf that gets other rights has them, and no others") {
  const auto each = [](auto arch) {
    using A = typename decltype(arch)::type;
    each_leaf<A>(MemoryType::WriteBack, false, [&](const auto&, std::uint64_t e, const LeafSpec&) {
      for (unsigned r = 0; r < 8; ++r) REQUIRE(A::rights(A::with_rights(e, Access{r})) == Access{r});
    });
  };
  each(std::type_identity<arch::Ept>{});
  each(std::type_identity<arch::X86_64>{});
}
TEST_CASE("F38 EPT: bits 5:3 are the type in the manual's encoding, bit 6 (IPAT) is set for devices and no other") {
  const unsigned encoding[] = {0, 1, 4, 5, 6};
  for (unsigned t = 0; t < 5; ++t)
    for (const bool device : {false, true}) {
      const std::uint64_t want = encoding[t] << 3 | (device ? 1U << 6 : 0U);
      each_leaf<arch::Ept>(kTypes[t], device, [&](const auto& caps, std::uint64_t e, const LeafSpec& s) {
        REQUIRE((e & 0x78) == want);
        each_change<arch::Ept>(caps, e, s.level, [&](std::uint64_t now) { REQUIRE((now & 0x78) == want); });
      });
    }
}
TEST_CASE(
    "F38 shadow entries choose of the power-on PAT: PWT (bit 3) is write-through, with PCD (bit 4) uncached, as "
    "is what it lacks") {
  for (const auto& [type, want] : {std::pair{MemoryType::Uncached, 0x18U}, std::pair{MemoryType::WriteThrough, 0x08U},
                                   std::pair{MemoryType::WriteBack, 0U}, std::pair{MemoryType::WriteCombining, 0x18U},
                                   std::pair{MemoryType::WriteProtected, 0x18U}})
    for (const bool device : {false, true})
      each_leaf<arch::X86_64>(type, device, [&, bits = want](const auto& caps, std::uint64_t e, const LeafSpec& s) {
        REQUIRE((e & 0x18) == bits);
        if (s.level > Level{1}) REQUIRE((e & 0x1000) == 0);  // PAT of a large leaf
        if (s.level == Level{1}) REQUIRE((e & 0x80) == 0);   // and of a small one
        each_change<arch::X86_64>(caps, e, s.level, [&](std::uint64_t now) { REQUIRE((now & 0x18) == bits); });
      });
}
TEST_CASE("a split leaf's parts are the frames that it had, in order; bit 7 goes at 4 KiB only") {
  const auto parts = [](auto arch, Level level) {
    using A = decltype(arch);
    const Pfn first{0x8'0000};
    const std::uint64_t e = A::make_leaf({}, {.pfn = first, .rights = Access::all(), .level = level});
    for (unsigned n = 0; n < 512; ++n) {
      const std::uint64_t part = A::split(e, level.down(), n);
      REQUIRE(A::address(part) == address_of(first + n * level.down().frames()));
      REQUIRE((part & 0x80) == (level.down() > Level{1} ? 0x80U : 0U));
      REQUIRE((part & ~(A::kAddressBits | 0x80)) == (e & ~(A::kAddressBits | 0x80)));
    }
  };
  for (const unsigned l : {2U, 3U}) {
    parts(arch::Ept{}, Level{l});
    parts(arch::X86_64{}, Level{l});
  }
}
TEST_CASE("EPTP: write-back walks of four levels, bit 6 where A and D are kept") {
  for (const bool ad : {false, true})
    CHECK(arch::Ept::make_pointer({.accessed_dirty = ad}, Hpa{0x1234'5000}) == (0x1234'501eU | (ad ? 0x40U : 0U)));
}
TEST_CASE("what a log restores is marked dirty, where the CPU keeps D bits") {
  for (unsigned rights = 0; rights < 8; ++rights) {
    LeafSpec s{.rights = Access{rights | Access::kUser}, .mmu_writable = true};
    const std::uint64_t x = arch::X86_64::write_protected(arch::X86_64::make_leaf({}, s));
    CHECK(arch::X86_64::restorable(x));
    CHECK(arch::X86_64::dirty({}, arch::X86_64::restored({}, x)));
    CHECK(arch::X86_64::writable(arch::X86_64::restored({}, x)));
    for (const bool ad : {false, true}) {
      const arch::Ept::Caps c{.accessed_dirty = ad};
      const std::uint64_t e = arch::Ept::write_protected(arch::Ept::make_leaf(c, s));
      CHECK(arch::Ept::restorable(e));
      CHECK(arch::Ept::dirty(c, arch::Ept::restored(c, e)));
      CHECK(arch::Ept::writable(arch::Ept::restored(c, e)));
    }
  }
}
}  // namespace
