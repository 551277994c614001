// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <utility>
#include <vector>

#include "micro/clock.hpp"
#include "micro/threads.hpp"

namespace shadowmmu::bench {

/// A ticket lock that notes how long the thread that asked for it held the Mmu's lock. Always: as if somebody always
/// waited.
template <bool Always>
class HoldLock {
 public:
  using Memory = Polite;
  struct Token {};
  // An Mmu makes its slots lock first and its own lock next: the last one made is the one to watch.
  HoldLock() noexcept { watched() = this; }

  void lock() noexcept {
    lock_.lock();
    if (noting() && watched() == this) began_ = now_ns();
  }
  void unlock() noexcept {
    if (noting() && watched() == this) holds().push_back(now_ns() - began_);
    lock_.unlock();
  }
  [[nodiscard]] bool contended() const noexcept { return Always || lock_.contended(); }
  [[nodiscard]] Token token() const noexcept { return {}; }
  void verify(Token) const noexcept {}

  /// Returns: holds by this thread during body(), in ns.
  template <class Body>
  static std::vector<double> during(Body&& body) {
    holds().clear();
    holds().reserve(1U << 20U);
    noting() = true;
    body();
    noting() = false;
    return std::move(holds());
  }

 private:
  static const HoldLock*& watched() noexcept {
    static const HoldLock* lock = nullptr;
    return lock;
  }
  static bool& noting() noexcept {
    static thread_local bool on = false;
    return on;
  }
  static std::vector<double>& holds() noexcept {
    static thread_local std::vector<double> list;
    return list;
  }
  PoliteSpin lock_;
  double began_ = 0;
};

}  // namespace shadowmmu::bench
