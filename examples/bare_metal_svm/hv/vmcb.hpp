// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>

/// AMD APM vol. 2, appendix B (VMCB layout) and C (exit codes).
namespace hv {

struct Segment {
  std::uint16_t selector, attributes;  ///< attributes: descriptor bits 55:52 and 47:40
  std::uint32_t limit;
  std::uint64_t base;
};

struct Vmcb {
  std::uint16_t cr_read, cr_write, dr_read, dr_write;
  std::uint32_t exceptions, intercepts1, intercepts2, intercepts3;
  std::uint8_t pad018[0x040 - 0x018];
  std::uint64_t iopm, msrpm, tsc_offset;
  std::uint32_t asid;
  std::uint8_t tlb_control, pad05d[3];
  std::uint32_t int_control, int_vector;
  std::uint64_t int_state;
  std::uint64_t exit_code, exit_info1, exit_info2, exit_int_info, nested_control;
  std::uint8_t pad098[0x0A8 - 0x098];
  std::uint64_t event_injection, nested_cr3, lbr_control, clean, next_rip;
  std::uint8_t pad0d0[0x400 - 0x0D0];
  Segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
  std::uint8_t pad4a0[0x4CB - 0x4A0];
  std::uint8_t cpl;
  std::uint8_t pad4cc[4];
  std::uint64_t efer;
  std::uint8_t pad4d8[0x548 - 0x4D8];
  std::uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
  std::uint8_t pad580[0x5D8 - 0x580];
  std::uint64_t rsp;
  std::uint8_t pad5e0[0x5F8 - 0x5E0];
  std::uint64_t rax, star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, cr2;
  std::uint8_t pad648[0x668 - 0x648];
  std::uint64_t g_pat, debug_control;
  std::uint8_t pad678[0x1000 - 0x678];
};
static_assert(sizeof(Vmcb) == 4096);
static_assert(offsetof(Vmcb, exit_code) == 0x070 && offsetof(Vmcb, event_injection) == 0x0A8);
static_assert(offsetof(Vmcb, efer) == 0x4D0 && offsetof(Vmcb, cr4) == 0x548 && offsetof(Vmcb, rsp) == 0x5D8);
static_assert(offsetof(Vmcb, cr2) == 0x640 && offsetof(Vmcb, g_pat) == 0x668);

namespace intercept {
inline constexpr std::uint32_t kIntr = 1U << 0, kNmi = 1U << 1, kInit = 1U << 3, kCpuid = 1U << 18, kInvlpg = 1U << 25,
                               kInvlpga = 1U << 26, kIo = 1U << 27, kMsr = 1U << 28, kTaskSwitch = 1U << 29,
                               kShutdown = 1U << 31;
// In intercepts2: every instruction of SVM itself, VMRUN to SKINIT.
inline constexpr std::uint32_t kSvmInstructions = 0x7F;
}  // namespace intercept

namespace exit_code {
inline constexpr std::uint32_t kCrRead = 0x00, kCrWrite = 0x10, kException = 0x40, kExceptionLast = 0x5F, kIntr = 0x60,
                               kNmi = 0x61, kInit = 0x63, kCpuid = 0x72, kInvlpg = 0x79, kInvlpga = 0x7A, kIo = 0x7B,
                               kMsr = 0x7C, kTaskSwitch = 0x7D, kShutdown = 0x7F, kVmrun = 0x80, kSkinit = 0x86,
                               kInvalid = 0xFFFFFFFF;
}

/// EVENTINJ and EXITINTINFO share one layout. APM vol. 2, 15.20.
namespace event {
inline constexpr std::uint64_t kValid = 1ULL << 31, kErrorValid = 1ULL << 11, kTypeMask = 7ULL << 8;
inline constexpr std::uint64_t kInterrupt = 0ULL << 8, kNmi = 2ULL << 8, kException = 3ULL << 8, kSoftware = 4ULL << 8;
}  // namespace event

namespace vector {
inline constexpr unsigned kDb = 1, kNmi = 2, kBp = 3, kOf = 4, kUd = 6, kDf = 8, kGp = 13, kPf = 14;
}

inline constexpr std::uint32_t kVirtualInterruptMasking = 1U << 24;  // in int_control
inline constexpr std::uint64_t kInterruptShadow = 1;                 // in int_state
inline constexpr std::uint64_t kFlagTf = 1U << 8, kFlagDf = 1U << 10, kFlagAc = 1U << 18;
inline constexpr std::uint64_t kDr6Bs = 1U << 14, kDr6Traps = 0xF;
inline constexpr std::uint16_t kSegmentLong = 1U << 9, kSegmentBig = 1U << 10;  // L and D in attributes
inline constexpr std::uint64_t kEferSvme = 1U << 12;

}  // namespace hv
