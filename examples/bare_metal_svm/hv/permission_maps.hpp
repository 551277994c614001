// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// The bitmaps that say which ports and MSRs exit. APM vol. 2, 15.10 and 15.11.
namespace hv {

void intercept_port(unsigned port, bool on) noexcept;
void intercept_msr(std::uint32_t msr) noexcept;
[[nodiscard]] std::uint64_t port_map_address() noexcept;
[[nodiscard]] std::uint64_t msr_map_address() noexcept;

}  // namespace hv
