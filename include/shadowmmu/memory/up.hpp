// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <type_traits>

#include "shadowmmu/memory/order.hpp"

namespace shadowmmu::memory {

/// Memory access for one agent: no locked instruction is emitted, loads and stores stay single-copy (hardware walks
/// the tables beside us even so).
struct Up {
  static constexpr bool kManyAgents = false;

  template <Order, class T>
  [[nodiscard]] static T load(const T& cell) noexcept {
    return __atomic_load_n(&cell, __ATOMIC_RELAXED);
  }
  template <Order, class T>
  static void store(T& cell, std::type_identity_t<T> v) noexcept {
    __atomic_store_n(&cell, v, __ATOMIC_RELAXED);
  }
  template <Order O, class T>
  static T exchange(T& cell, std::type_identity_t<T> v) noexcept {
    const T old = load<O>(cell);
    store<O>(cell, v);
    return old;
  }
  template <Order O, class T>
  [[nodiscard]] static bool compare_exchange(T& cell, T& expected, std::type_identity_t<T> desired) noexcept {
    const T old = load<O>(cell);
    if (old != expected) {
      expected = old;
      return false;
    }
    store<O>(cell, desired);
    return true;
  }
  template <Order O, class T>
  static T fetch_add(T& cell, std::type_identity_t<T> v) noexcept {
    const T old = load<O>(cell);
    store<O>(cell, static_cast<T>(old + v));
    return old;
  }
  template <Order>
  static void fence() noexcept {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
  }
  static void pause() noexcept {}
  template <class T>
  [[nodiscard]] static T plain(const T& cell) noexcept {
    return load<Order::Relaxed>(cell);
  }
  template <class T>
  static void plain(T& cell, std::type_identity_t<T> v) noexcept {
    store<Order::Relaxed>(cell, v);
  }
};

}  // namespace shadowmmu::memory
