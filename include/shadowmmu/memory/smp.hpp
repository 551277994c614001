// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <type_traits>

#include "shadowmmu/memory/order.hpp"

namespace shadowmmu::memory {

/// Memory access for several agents: real atomics over plain cells, so that the same calls serve entries that
/// hardware also writes, counters and locks.
struct Smp {
  static constexpr bool kManyAgents = true;

  template <Order O, class T>
  [[nodiscard]] static T load(const T& cell) noexcept {
    return __atomic_load_n(&cell, static_cast<int>(O));
  }
  template <Order O, class T>
  static void store(T& cell, std::type_identity_t<T> v) noexcept {
    __atomic_store_n(&cell, v, static_cast<int>(O));
  }
  template <Order O, class T>
  static T exchange(T& cell, std::type_identity_t<T> v) noexcept {
    return __atomic_exchange_n(&cell, v, static_cast<int>(O));
  }
  /// Effects: cell = desired where cell == expected, else expected = cell. Strong: fails only on a difference.
  template <Order O, class T>
  [[nodiscard]] static bool compare_exchange(T& cell, T& expected, std::type_identity_t<T> desired) noexcept {
    return __atomic_compare_exchange_n(&cell, &expected, desired, false, static_cast<int>(O), __ATOMIC_RELAXED);
  }
  template <Order O, class T>
  static T fetch_add(T& cell, std::type_identity_t<T> v) noexcept {
    return __atomic_fetch_add(&cell, v, static_cast<int>(O));
  }
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"  // the sanitizer does not model fences; none is needed for what it checks
#endif
  template <Order O>
  static void fence() noexcept {
    __atomic_thread_fence(static_cast<int>(O));
  }
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
  /// Accesses under a lock: no ordering, no schedule point, but single-copy for those who read beside it. Inlined
  /// always: where a function that the sanitizer of threads leaves alone (SideAccess::prefetch) reads what may race,
  /// the sanitizer must not see it through this one.
  template <class T>
  [[nodiscard, gnu::always_inline]] static inline T plain(const T& cell) noexcept {
    return __atomic_load_n(&cell, __ATOMIC_RELAXED);
  }
  template <class T>
  static void plain(T& cell, std::type_identity_t<T> v) noexcept {
    __atomic_store_n(&cell, v, __ATOMIC_RELAXED);
  }
};

}  // namespace shadowmmu::memory
