// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <type_traits>

#include "shadowmmu/lock/spin.hpp"
#include "shadowmmu/memory/smp.hpp"

namespace shadowmmu::test {

/// Memory accesses that are counted: each time that another entry (a 64-bit cell) or another list node or line of side
/// words (the 64 bytes around a 32-bit cell) is looked at than by the access of its kind before.
struct CountingMemory : memory::Smp {
  static inline std::uint64_t touched = 0;

  template <class T>
  static void touch(const T& cell) noexcept {
    static std::uintptr_t last[2] = {};
    constexpr bool kEntry = sizeof(T) == 8;
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(&cell) >> (kEntry ? 3U : 6U);
    if (last[kEntry ? 1 : 0] != at) touched += 1;
    last[kEntry ? 1 : 0] = at;
  }
  template <memory::Order O, class T>
  [[nodiscard]] static T load(const T& cell) noexcept {
    touch(cell);
    return Smp::load<O>(cell);
  }
  template <memory::Order O, class T>
  static void store(T& cell, std::type_identity_t<T> v) noexcept {
    touch(cell);
    Smp::store<O>(cell, v);
  }
  template <memory::Order O, class T>
  static T exchange(T& cell, std::type_identity_t<T> v) noexcept {
    touch(cell);
    return Smp::exchange<O>(cell, v);
  }
  template <memory::Order O, class T>
  [[nodiscard]] static bool compare_exchange(T& cell, T& expected, std::type_identity_t<T> desired) noexcept {
    touch(cell);
    return Smp::compare_exchange<O>(cell, expected, desired);
  }
  template <class T>
  [[nodiscard]] static T plain(const T& cell) noexcept {
    touch(cell);
    return Smp::plain(cell);
  }
  template <class T>
  static void plain(T& cell, std::type_identity_t<T> v) noexcept {
    touch(cell);
    Smp::plain(cell, v);
  }
};

/// A lock of one thread's that notes how much was touched in the longest hold; somebody always waits for it.
struct WorkLock : lock::BasicSpin<CountingMemory> {
  static inline std::uint64_t most = 0;
  void lock() noexcept {
    lock::BasicSpin<CountingMemory>::lock();
    began_ = CountingMemory::touched;
  }
  void unlock() noexcept {
    if (const std::uint64_t n = CountingMemory::touched - began_; n > most) most = n;
    lock::BasicSpin<CountingMemory>::unlock();
  }
  [[nodiscard]] bool contended() const noexcept { return true; }

 private:
  std::uint64_t began_ = 0;
};

}  // namespace shadowmmu::test
