// SPDX-License-Identifier: BSL-1.0
#include "boot_modules.hpp"

#include <cstring>

#include "multiboot.hpp"

extern "C" char hv_image_end[];

namespace hv {
namespace {

template <class T>
const T* at(std::uint64_t address) noexcept {
  return reinterpret_cast<const T*>(address);
}

void cover(BootInfo& b, std::uint64_t end) noexcept {
  if (end > b.end) b.end = end;
}

const char* string_at(BootInfo& b, std::uint32_t address) noexcept {
  if (address == 0) return "";
  const char* s = at<char>(address);
  cover(b, address + std::strlen(s) + 1);
  return s;
}

}  // namespace

BootInfo read_boot_info(std::uint64_t address) noexcept {
  BootInfo b;
  const auto& info = *at<multiboot::Info>(address);
  cover(b, reinterpret_cast<std::uint64_t>(hv_image_end));
  cover(b, address + sizeof info);
  if ((info.flags & multiboot::kInfoCommandLine) != 0) b.command_line = string_at(b, info.command_line);
  if ((info.flags & multiboot::kInfoModules) != 0) {
    cover(b, info.modules + info.module_count * sizeof(multiboot::Module));
    for (std::uint32_t i = 0; i < info.module_count && i < 2; ++i) {
      const auto& m = at<multiboot::Module>(info.modules)[i];
      b.modules[b.module_count++] = {at<std::uint8_t>(m.start), m.end - m.start, string_at(b, m.string)};
      cover(b, m.end);
    }
  }
  if ((info.flags & multiboot::kInfoMap) != 0) {
    for (std::uint32_t pos = 0; pos < info.map_length;) {
      multiboot::MapEntry e;
      std::memcpy(&e, at<char>(info.map + pos), sizeof e);
      b.memory.add({e.base, e.length, e.type});
      pos += e.size + static_cast<std::uint32_t>(sizeof e.size);
    }
  }
  return b;
}

std::uint64_t BootInfo::option(const char* name, std::uint64_t otherwise) const noexcept {
  const std::size_t n = std::strlen(name);
  for (const char* s = command_line; *s != '\0'; ++s) {
    const bool word_begins = s == command_line || s[-1] == ' ';
    if (!word_begins || std::strncmp(s, name, n) != 0 || s[n] != '=') continue;
    std::uint64_t v = 0;
    for (s += n + 1; *s >= '0' && *s <= '9'; ++s) v = v * 10 + static_cast<std::uint64_t>(*s - '0');
    return v;
  }
  return otherwise;
}

}  // namespace hv
