// SPDX-License-Identifier: BSL-1.0
#include "features.hpp"

#include "cpu.hpp"

namespace hv {
namespace {

constexpr std::uint64_t kCr4Osxsave = 1U << 18;

constexpr std::uint32_t bit(unsigned n) noexcept { return 1U << n; }

void hide_leaf_1(const Cpu& cpu, CpuidResult& r) noexcept {
  constexpr unsigned kVmx = 5, kSmx = 6, kPcid = 17, kOsxsave = 27;
  r.ecx &= ~(bit(kVmx) | bit(kSmx) | bit(kPcid) | bit(kOsxsave));
  if ((cpu.controls.cr4 & kCr4Osxsave) != 0) r.ecx |= bit(kOsxsave);
}

void hide_leaf_7(CpuidResult& r) noexcept {
  constexpr unsigned kSgx = 2, kInvpcid = 10;                                        // EBX
  constexpr unsigned kPku = 3, kOspke = 4, kShadowStack = 7, kLa57 = 16, kPks = 31;  // ECX
  constexpr unsigned kIbt = 20;                                                      // EDX
  r.ebx &= ~(bit(kSgx) | bit(kInvpcid));
  r.ecx &= ~(bit(kPku) | bit(kOspke) | bit(kShadowStack) | bit(kLa57) | bit(kPks));
  r.edx &= ~bit(kIbt);
}

void hide_extended_1(CpuidResult& r) noexcept {
  constexpr unsigned kSvm = 2, kSkinit = 12, kHuge = 26;
  r.ecx &= ~(bit(kSvm) | bit(kSkinit));
  if (!kGuestHugePages) r.edx &= ~bit(kHuge);
}

}  // namespace

CpuidResult guest_cpuid(const Cpu& cpu, std::uint32_t leaf, std::uint32_t subleaf) noexcept {
  constexpr std::uint32_t kSvmLeaf = 0x8000000A, kEncryptionLeaf = 0x8000001F;
  CpuidResult r = cpuid(leaf, subleaf);
  if (leaf == 1) hide_leaf_1(cpu, r);
  if (leaf == 7 && subleaf == 0) hide_leaf_7(r);
  if (leaf == 7 && subleaf != 0) r = {};
  if (leaf == 0x80000001) hide_extended_1(r);
  if (leaf == 0x80000008) {
    r.eax = (r.eax & ~0xFFU) | kGuestAddressBits;
    r.ebx &= ~bit(3);  // INVLPGB
  }
  if (leaf == kSvmLeaf || leaf == kEncryptionLeaf) r = {};
  return r;
}

std::uint64_t allowed_cr4(const Cpu& cpu) noexcept {
  const CpuidResult one = guest_cpuid(cpu, 1, 0), seven = guest_cpuid(cpu, 7, 0);
  const struct {
    std::uint32_t word;
    unsigned feature, control;
  } rules[] = {
      {one.edx, 1, 0},      // VME
      {one.edx, 1, 1},      // PVI
      {one.edx, 4, 2},      // TSD
      {one.edx, 2, 3},      // DE
      {one.edx, 3, 4},      // PSE
      {one.edx, 6, 5},      // PAE
      {one.edx, 7, 6},      // MCE
      {one.edx, 13, 7},     // PGE
      {one.edx, 24, 9},     // OSFXSR
      {one.edx, 25, 10},    // OSXMMEXCPT
      {seven.ecx, 2, 11},   // UMIP
      {seven.ebx, 0, 16},   // FSGSBASE
      {one.ecx, 26, 18},    // OSXSAVE
      {seven.ebx, 7, 20},   // SMEP
      {seven.ebx, 20, 21},  // SMAP
  };
  std::uint64_t allowed = 1U << 8;  // PCE
  for (const auto& rule : rules)
    if ((rule.word & bit(rule.feature)) != 0) allowed |= bit(rule.control);
  return allowed;
}

std::uint64_t allowed_efer(const Cpu& cpu) noexcept {
  const CpuidResult x = guest_cpuid(cpu, 0x80000001, 0);
  std::uint64_t allowed = 0;
  if ((x.edx & bit(11)) != 0) allowed |= bit(0);  // SYSCALL: SCE
  if ((x.edx & bit(29)) != 0) allowed |= shadowmmu::efer::kLme | shadowmmu::efer::kLma;
  if ((x.edx & bit(20)) != 0) allowed |= shadowmmu::efer::kNxe;
  if ((x.edx & bit(25)) != 0) allowed |= bit(14);  // FFXSR
  return allowed;
}

unsigned host_address_bits() noexcept { return cpuid(0x80000008).eax & 0xFF; }

}  // namespace hv
