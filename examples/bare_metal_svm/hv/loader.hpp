// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "boot_modules.hpp"
#include "guest_memory.hpp"
#include "vmcb.hpp"

/// Puts a guest into its memory, in the way of the two boot protocols that we know.
namespace hv {

/// Where a guest begins, in 32-bit protected mode without paging.
struct EntryState {
  std::uint32_t rip = 0, rax = 0, rbx = 0, rsi = 0;
  std::uint16_t code_selector = 0, data_selector = 0;
  std::uint64_t gdt = 0;
};

enum class LoadResult : std::uint8_t { Ok, NotMine, DoesNotFit };

/// Linux, the 32-bit entry of its boot protocol (Documentation/x86/boot).
[[nodiscard]] LoadResult load_linux(const BootInfo& boot, GuestMemory& memory, EntryState& entry) noexcept;
/// A multiboot kernel in an ELF32 file.
[[nodiscard]] LoadResult load_multiboot(const BootInfo& boot, GuestMemory& memory, EntryState& entry) noexcept;

/// Effects: writes a GDT with flat code at `code` and flat data at `data` to `gpa`. Takes kGdtBytes there.
inline constexpr std::uint64_t kGdtBytes = 64;
[[nodiscard]] bool write_gdt(GuestMemory& memory, std::uint64_t gpa, EntryState& entry) noexcept;
/// Effects: the VMCB's state for the entry.
void enter_flat_mode(Vmcb& vmcb, const EntryState& entry) noexcept;

}  // namespace hv
