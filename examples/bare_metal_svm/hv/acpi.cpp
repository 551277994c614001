// SPDX-License-Identifier: BSL-1.0
// The way from the RSDP to the ports that the FADT names, and to the HPET. ACPI 6.4, 5.2.5 to 5.2.9.
#include <cstring>

#include "ports.hpp"

namespace hv {
namespace {

constexpr std::uint32_t kTableHeader = 36;

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
  constexpr std::uint32_t kRsdtPointer = 16;
  const std::uint64_t rsdp = find_rsdp();
  if (rsdp == 0) return 0;
  const std::uint64_t rsdt = load32(rsdp + kRsdtPointer);
  if (rsdt == 0) return 0;
  const std::uint32_t length = load32(rsdt + 4);
  for (std::uint32_t at = kTableHeader; at + 4 <= length; at += 4) {
    const std::uint64_t table = load32(rsdt + at);
    if (std::memcmp(reinterpret_cast<const void*>(table), signature, 4) == 0) return table;
  }
  return 0;
}

// Returns: the first number in the package of the sleep state `n`, which is SLP_TYP for PM1a control; kNone if there is
// no such package. No interpreter: what is looked for is one fixed piece of AML, Name (\_Sn_, Package {number, ...}.
// ACPI 6.4, 7.4.2 and 20.2.
std::uint8_t sleep_type(std::uint64_t dsdt, unsigned n) noexcept {
  constexpr std::uint8_t kNameOp = 0x08, kRoot = '\\', kPackageOp = 0x12, kBytePrefix = 0x0A;
  const auto* const aml = reinterpret_cast<const std::uint8_t*>(dsdt);
  const std::uint32_t length = load32(dsdt + 4);
  const char name[4] = {'_', 'S', static_cast<char>('0' + n), '_'};
  for (std::uint32_t at = kTableHeader + 2; at + 12 <= length; ++at) {
    if (std::memcmp(aml + at, name, sizeof name) != 0 || aml[at + 4] != kPackageOp) continue;
    const std::uint8_t before = aml[at - 1] == kRoot ? aml[at - 2] : aml[at - 1];
    if (before != kNameOp) continue;
    // The length of the package takes one to four bytes; behind it stands the number of elements.
    const std::uint8_t* const element = aml + at + 6 + (aml[at + 5] >> 6) + 1;
    if (*element == kBytePrefix) return element[1];
    if (*element <= 1) return *element;  // ZeroOp, OneOp
  }
  return SleepTypes::kNone;
}

std::uint16_t fadt_port(std::uint32_t offset) noexcept {
  const std::uint64_t fadt = find_table("FACP");
  return fadt == 0 ? std::uint16_t{0} : static_cast<std::uint16_t>(load32(fadt + offset));
}

}  // namespace

void find_power_port(PortWatch& ports) noexcept {
  constexpr std::uint32_t kDsdt = 40, kPm1aControl = 64;
  ports.power = fadt_port(kPm1aControl);
  const std::uint64_t fadt = find_table("FACP");
  const std::uint64_t dsdt = fadt == 0 ? 0 : load32(fadt + kDsdt);
  for (unsigned n = 1; dsdt != 0 && n <= SleepTypes::kOff; ++n) ports.sleep.of_state[n] = sleep_type(dsdt, n);
}
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
