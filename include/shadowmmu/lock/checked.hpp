// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/lock.hpp"

/// Called with what went wrong; must not return. Debug builds and checked locks need it from the embedder
/// (host/arena.hpp brings a weak one for user space).
extern "C" [[noreturn]] void shadowmmu_assert_fail(const char* what) noexcept;

namespace shadowmmu::lock {

/// Any lock, with tokens that know who minted them and in which critical section: catches a token of another
/// instance, one that outlived its guard, and an unlock by somebody who does not hold it. For tests; a type, not a
/// flag.
template <class L>
class Checked {
 public:
  using Memory = typename L::Memory;
  struct Token {
    const Checked* lock = nullptr;
    std::uint64_t section = 0;
  };

  void lock() noexcept {
    inner_.lock();
    section_ += 1;  // odd: held
  }
  void unlock() noexcept {
    if (section_ % 2 == 0) shadowmmu_assert_fail("lock::Checked: unlock of a lock that nobody holds");
    section_ += 1;
    inner_.unlock();
  }
  [[nodiscard]] bool contended() const noexcept { return inner_.contended(); }
  [[nodiscard]] Token token() const noexcept { return {this, section_}; }
  void verify(Token t) const noexcept {
    if (t.lock != this) shadowmmu_assert_fail("lock::Checked: the token belongs to another lock");
    if (t.section != section_) shadowmmu_assert_fail("lock::Checked: the token outlived its guard");
  }

 private:
  L inner_;
  std::uint64_t section_ = 0;
};

}  // namespace shadowmmu::lock
