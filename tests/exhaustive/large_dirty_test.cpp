// SPDX-License-Identifier: BSL-1.0
#include "core/world.hpp"

/// Large guest pages mapped by 4 KiB entries: the key of the direct child holds all that its leaves' rights were made
/// of, the guest's D bit included.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;
constexpr std::uint64_t kOne = 0x4000'0000, kTwo = 0x4020'0000;
constexpr std::uint64_t kDirty = 0x40, kAccessed = 0x20;

/// Two directory entries that map the same 2 MiB of guest frames, which the Host has in 4 KiB pages.
struct Twins : Bench<Mmu> {
  explicit Twins(std::uint64_t one, std::uint64_t two, bool wp) {
    REQUIRE(mmu.add_slot(Gfn{0}, 1024).ok());
    map(1, kOne, 300);
    directory = 1;
    for (unsigned l = 4; l >= 3; --l) directory = table(directory)[Level{l}.index(kOne)] >> 12 & 0xffff'ffff;
    gpte(kOne) = 512 << 12 | 0x80 | one;
    gpte(kTwo) = 512 << 12 | 0x80 | two;
    vcpu = std::make_unique<Mmu::Vcpu>(mmu);
    Controls c = kLongMode;
    if (!wp) c.cr0 &= ~cr0::kWp;
    REQUIRE(vcpu->set_control(c) == ControlOutcome::Done);
    REQUIRE(vcpu->set_cr3(1 << 12) == ControlOutcome::Done);
    REQUIRE(vcpu->enter() == EnterOutcome::Enter);
  }
  ~Twins() { vcpu.reset(); }
  std::uint64_t& gpte(std::uint64_t a) { return table(directory)[Level{2}.index(a)]; }
  Kind access(std::uint64_t a, std::uint32_t code) {
    return vcpu
        ->handle_fault(Gva{a}, code, CpuMode{static_cast<std::uint8_t>((code & pferr::kUser) != 0 ? 3 : 0), false})
        .kind;
  }
  /// What hardware may write without a fault must be dirty already in the entry that it writes through.
  void no_write_unseen() {
    for (const std::uint64_t a : {kOne, kTwo})
      for (std::uint64_t page = 0; page < 4; ++page)
        if (vcpu->lookup(Gva{a + (page << 12)}).rights.write()) CHECK((gpte(a) & kDirty) != 0);
    CHECK(test::unsound(mmu) == "");
  }
  std::uint64_t directory = 0;
  std::unique_ptr<Mmu::Vcpu> vcpu;
};

TEST_CASE("two large pages of equal rights: a write through one sets D there, and is no write through the other") {
  // All P|W|U and D of both entries, CR0.WP, and every order of two accesses of the supervisor's and the user's.
  for (unsigned bits = 0; bits < 64; ++bits) {
    for (const bool wp : {false, true}) {
      const auto flags = [&](unsigned b) {
        return std::uint64_t{1} | ((b & 1) != 0 ? 2U : 0U) | ((b & 2) != 0 ? 4U : 0U) | ((b & 4) != 0 ? kDirty : 0U);
      };
      for (unsigned order = 0; order < 16; ++order) {
        CAPTURE(bits);
        CAPTURE(wp);
        CAPTURE(order);
        Twins t(flags(bits & 7), flags(bits >> 3), wp);
        for (unsigned n = 0; n < 2; ++n) {
          const unsigned what = order >> (2 * n) & 3;
          const std::uint32_t code = ((what & 1) != 0 ? pferr::kWrite : 0U) | ((what & 2) != 0 ? pferr::kUser : 0U);
          const std::uint64_t a = n == 0 ? kOne : kTwo;
          for (std::uint64_t page = 0; page < 2; ++page) static_cast<void>(t.access(a + (page << 12), code));
          t.no_write_unseen();
        }
        static_cast<void>(t.access(kOne + 0x1000, 0));
        t.no_write_unseen();
      }
    }
  }
}
TEST_CASE("CR0.WP = 0: the guest cleans D of a large page that the supervisor wrote; the next write sets it again") {
  Twins t(1, 0, false);
  REQUIRE(t.access(kOne, pferr::kWrite) == Kind::Resume);
  REQUIRE((t.gpte(kOne) & (kDirty | kAccessed)) == (kDirty | kAccessed));
  t.gpte(kOne) &= ~kDirty;
  t.mmu.guest_wrote(Gpa{t.directory << 12 | Level{2}.index(kOne) * 8}, 8);
  t.vcpu->flush();
  REQUIRE(t.vcpu->enter() == EnterOutcome::Enter);
  REQUIRE(t.access(kOne + 0x1000, 0) == Kind::Resume);
  CHECK_FALSE(t.vcpu->lookup(Gva{kOne}).rights.write());
  t.no_write_unseen();
  REQUIRE(t.access(kOne, pferr::kWrite) == Kind::Resume);
  CHECK((t.gpte(kOne) & kDirty) != 0);
}
}  // namespace
