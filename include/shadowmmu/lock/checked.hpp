// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/concepts/lock.hpp"

/// Called with what went wrong; must not return. Debug builds and checked locks need it from the embedder
/// (host/arena.hpp brings a weak one for user space).
extern "C" [[noreturn]] void shadowmmu_assert_fail(const char* what) noexcept;
/// Returns: an address that no other thread of execution running now has. Checked locks need it (host/arena.hpp too).
extern "C" const void* shadowmmu_this_thread() noexcept;

namespace shadowmmu::lock {

/// Any lock, with tokens that know who minted them and in which critical section: catches a token of another
/// instance, one that outlived its guard, an unlock by somebody who does not hold it, and a thread that asks for the
/// lock inside a reader section, where the lock's holder may be waiting for it. For tests; a type, not a flag.
template <class L>
class Checked {
 public:
  using Memory = typename L::Memory;
  struct Token {
    const Checked* lock = nullptr;
    std::uint64_t section = 0;
  };

  void lock() noexcept {
    if (const Reading* r = mine(); r != nullptr && r->depth != 0)
      shadowmmu_assert_fail("lock::Checked: the lock was asked for inside a reader section");
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

  void section_began() noexcept {
    Reading* r = mine();
    for (unsigned i = 0; r == nullptr && i < kThreads; ++i) {
      std::uint64_t nobody = 0;
      if (Memory::template compare_exchange<memory::Order::AcqRel>(reading_[i].thread, nobody, me())) r = &reading_[i];
    }
    if (r == nullptr) shadowmmu_assert_fail("lock::Checked: more reading threads than it can tell apart");
    r->depth += 1;
  }
  void section_ended() noexcept {
    Reading* r = mine();
    if (r == nullptr || r->depth == 0) shadowmmu_assert_fail("lock::Checked: the end of a section that never began");
    if (--r->depth == 0) Memory::template store<memory::Order::Release>(r->thread, 0);
  }

 private:
  static constexpr unsigned kThreads = 64;
  struct Reading {
    std::uint64_t thread = 0;  ///< cell: which thread is in a section; 0: free
    std::uint64_t depth = 0;   ///< sections that are open; only that thread's
  };
  [[nodiscard]] static std::uint64_t me() noexcept { return reinterpret_cast<std::uintptr_t>(shadowmmu_this_thread()); }
  [[nodiscard]] Reading* mine() noexcept {
    for (Reading& r : reading_)
      if (Memory::template load<memory::Order::Relaxed>(r.thread) == me()) return &r;
    return nullptr;
  }

  L inner_;
  std::uint64_t section_ = 0;
  Reading reading_[kThreads] = {};
};

}  // namespace shadowmmu::lock
