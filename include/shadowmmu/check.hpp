// SPDX-License-Identifier: BSL-1.0
#pragma once

/// Contracts that a caller can break. A debug build names the broken one to the embedder's handler, which must not
/// return. A release build goes on in the way that each contract states: defined, and without an effect on anything
/// else. What a guest can do is never a broken contract.
#ifndef NDEBUG
extern "C" [[noreturn]] void shadowmmu_assert_fail(const char* what) noexcept;
#endif

namespace shadowmmu::detail {

/// Effects: in a debug build the handler is called with `what` where `ok` is false. Complexity: none in a release
/// build.
constexpr void require([[maybe_unused]] bool ok, [[maybe_unused]] const char* what) noexcept {
#ifndef NDEBUG
  if (!ok) shadowmmu_assert_fail(what);
#endif
}

}  // namespace shadowmmu::detail
