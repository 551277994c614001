// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// The embedder's name for a vCPU.
enum class VcpuId : std::uint32_t {};
inline constexpr VcpuId kAllVcpus{0xffff'ffffU};

/// What the Host must make every named vCPU forget before `Host::flush` returns (or before that vCPU enters the guest
/// again, if it is out of the guest now).
struct FlushRequest {
  enum class Scope : std::uint8_t {
    Range,       ///< translations of `pages` pages from `first`; paging-structure caches may stay
    Structures,  ///< everything, paging-structure caches included
  };
  Scope scope = Scope::Structures;
  VcpuId vcpus = kAllVcpus;
  std::uint64_t first = 0;  ///< page number: guest virtual under shadow paging, guest physical under direct maps
  std::uint64_t pages = 0;  ///< both 0 with Structures
};

/// A flush that somebody owes. Dropping it unread is a warning; the guard that takes it settles it before it unlocks.
class [[nodiscard]] FlushOwed {
 public:
  constexpr FlushOwed() noexcept = default;
  [[nodiscard]] static constexpr FlushOwed none() noexcept { return FlushOwed{}; }
  [[nodiscard]] static constexpr FlushOwed all() noexcept {
    FlushOwed f;
    f.needed_ = true;
    f.structures_ = true;
    return f;
  }
  /// Requires: the addresses are those the hardware tags its entries with (gpa pages of a direct map).
  [[nodiscard]] static constexpr FlushOwed range(std::uint64_t first, std::uint64_t pages) noexcept {
    FlushOwed f;
    f.needed_ = pages != 0;
    f.first_ = first;
    f.last_ = first + pages;
    return f;
  }
  constexpr FlushOwed& operator|=(FlushOwed o) noexcept {
    if (!o.needed_) return *this;
    if (!needed_) return *this = o;
    structures_ = structures_ || o.structures_;
    first_ = min_of(first_, o.first_);
    last_ = max_of(last_, o.last_);
    return *this;
  }
  [[nodiscard]] constexpr bool needed() const noexcept { return needed_; }
  [[nodiscard]] constexpr FlushRequest request(VcpuId vcpus = kAllVcpus) const noexcept {
    FlushRequest r;
    r.vcpus = vcpus;
    if (structures_) return r;
    r.scope = FlushRequest::Scope::Range;
    r.first = first_;
    r.pages = last_ - first_;
    return r;
  }

 private:
  std::uint64_t first_ = 0, last_ = 0;
  bool needed_ = false, structures_ = false;
};

}  // namespace shadowmmu
