// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include "shadowmmu/lock/spin.hpp"
#include "shadowmmu/memory/smp.hpp"

namespace shadowmmu::test {

/// Memory accesses that are counted: each time that an entry (a 64-bit cell), a list node or a line of side words (the
/// 64 bytes around a 32-bit cell) is looked at that is none of the last eight of its kind; and each access by itself.
struct CountingMemory : memory::Smp {
  static inline std::uint64_t touched = 0, accesses = 0;

  template <class T>
  static void touch(const T& cell) noexcept {
    accesses += 1;
    static std::uintptr_t seen[2][8] = {};
    static unsigned oldest[2] = {};
    constexpr unsigned kKind = sizeof(T) == 8 ? 1 : 0;
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(&cell) >> (kKind == 1 ? 3U : 6U);
    for (const std::uintptr_t s : seen[kKind])
      if (s == at) return;
    touched += 1;
    seen[kKind][oldest[kKind]++ % 8] = at;
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
  template <memory::Order O, class T>
  static T fetch_add(T& cell, std::type_identity_t<T> v) noexcept {
    touch(cell);
    return Smp::fetch_add<O>(cell, v);
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

/// A lock of one thread's that notes how much was touched in the longest hold, such around another lock apart (the
/// slots lock, which no fault waits for); somebody always waits for it, and gets a turn whenever it is taken.
struct WorkLock : lock::BasicSpin<CountingMemory> {
  static inline std::uint64_t most = 0, taken = 0;
  static inline std::function<void()> turn;
  void lock() noexcept {
    if (auto t = std::exchange(turn, nullptr)) {
      t();
      turn = std::move(t);
    }
    lock::BasicSpin<CountingMemory>::lock();
    taken += 1;
    outer_ = std::exchange(holder, this);
    if (outer_ != nullptr) outer_->around_ = true;
    around_ = false;
    began_ = CountingMemory::touched;
  }
  void unlock() noexcept {
    if (const std::uint64_t n = CountingMemory::touched - began_; !around_ && n > most) most = n;
    holder = outer_;
    lock::BasicSpin<CountingMemory>::unlock();
  }
  [[nodiscard]] bool contended() const noexcept { return true; }

 private:
  static inline WorkLock* holder = nullptr;
  WorkLock* outer_ = nullptr;
  bool around_ = false;
  std::uint64_t began_ = 0;
};

}  // namespace shadowmmu::test
