// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Multiboot specification, version 0.6.96: what the loader tells us, and what we tell a guest kernel.
namespace hv::multiboot {

inline constexpr std::uint32_t kHeaderMagic = 0x1BADB002, kLoaderMagic = 0x2BADB002;
inline constexpr std::uint32_t kHeaderSearch = 8192;  // the header lies within the first 8 KiB

inline constexpr std::uint32_t kInfoMemory = 1U << 0, kInfoCommandLine = 1U << 2, kInfoModules = 1U << 3,
                               kInfoMap = 1U << 6, kInfoLoaderName = 1U << 9;

struct Info {
  std::uint32_t flags, mem_lower, mem_upper, boot_device, command_line, module_count, modules;
  std::uint32_t symbols[4];
  std::uint32_t map_length, map, drives_length, drives, config_table, loader_name, apm_table;
};

struct Module {
  std::uint32_t start, end, string, reserved;
};

struct [[gnu::packed]] MapEntry {
  std::uint32_t size;  ///< of the rest of the entry
  std::uint64_t base, length;
  std::uint32_t type;
};

static_assert(sizeof(Module) == 16 && sizeof(MapEntry) == 24);

}  // namespace hv::multiboot
