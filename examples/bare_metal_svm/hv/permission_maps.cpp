// SPDX-License-Identifier: BSL-1.0
#include "permission_maps.hpp"

namespace hv {
namespace {
alignas(4096) std::uint8_t port_map[3 * 4096];
alignas(4096) std::uint8_t msr_map[2 * 4096];
}  // namespace

void intercept_port(unsigned port, bool on) noexcept {
  const auto bit = static_cast<std::uint8_t>(1U << (port & 7));
  port_map[port >> 3] = static_cast<std::uint8_t>(on ? port_map[port >> 3] | bit : port_map[port >> 3] & ~bit);
}

void intercept_msr(std::uint32_t msr) noexcept {
  // Two bits an MSR, read and write, in one part for each of three ranges.
  const std::uint32_t part = msr < 0x2000 ? 0 : msr < 0xC0010000 ? 1 : 2;
  const std::uint32_t bit = part * 0x4000 + (msr & 0x1FFF) * 2;
  msr_map[bit >> 3] = static_cast<std::uint8_t>(msr_map[bit >> 3] | (3U << (bit & 7)));
}

std::uint64_t port_map_address() noexcept { return reinterpret_cast<std::uint64_t>(port_map); }
std::uint64_t msr_map_address() noexcept { return reinterpret_cast<std::uint64_t>(msr_map); }

}  // namespace hv
