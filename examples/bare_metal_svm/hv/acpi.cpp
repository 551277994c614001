// SPDX-License-Identifier: BSL-1.0
// The way from the RSDP to the ports that the FADT names, and to the HPET. ACPI 6.4, 5.2.5 to 5.2.9.
#include <cstring>

#include "ports.hpp"

namespace hv {
namespace {

std::uint32_t load32(std::uint64_t at) noexcept {
  std::uint32_t v;
  std::memcpy(&v, reinterpret_cast<const void*>(at), sizeof v);
  return v;
}

std::uint64_t find_rsdp() noexcept {
  for (std::uint64_t at = 0xE0000; at < 0x100000; at += 16)
    if (std::memcmp(reinterpret_cast<const void*>(at), "RSD PTR ", 8) == 0) return at;
  return 0;
}

std::uint64_t find_table(const char (&signature)[5]) noexcept {
  constexpr std::uint32_t kHeader = 36, kRsdtPointer = 16;
  const std::uint64_t rsdp = find_rsdp();
  if (rsdp == 0) return 0;
  const std::uint64_t rsdt = load32(rsdp + kRsdtPointer);
  if (rsdt == 0) return 0;
  const std::uint32_t length = load32(rsdt + 4);
  for (std::uint32_t at = kHeader; at + 4 <= length; at += 4) {
    const std::uint64_t table = load32(rsdt + at);
    if (std::memcmp(reinterpret_cast<const void*>(table), signature, 4) == 0) return table;
  }
  return 0;
}

std::uint16_t fadt_port(std::uint32_t offset) noexcept {
  const std::uint64_t fadt = find_table("FACP");
  return fadt == 0 ? std::uint16_t{0} : static_cast<std::uint16_t>(load32(fadt + offset));
}

}  // namespace

void find_power_port(PortWatch& ports) noexcept { ports.power = fadt_port(64); }
std::uint16_t find_timer_port() noexcept { return fadt_port(76); }

std::uint64_t take_hpet() noexcept {
  constexpr std::uint32_t kAddress = 44;
  const std::uint64_t table = find_table("HPET");
  if (table == 0) return 0;
  // The guest reads the same tables and must not know this one: other letters, or the sum would change.
  std::memcpy(reinterpret_cast<void*>(table), "TEPH", 4);
  return load32(table + kAddress);
}

}  // namespace hv
