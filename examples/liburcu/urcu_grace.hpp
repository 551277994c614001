// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cassert>
#include <cstdint>
#include <type_traits>

#include <urcu/urcu-memb.h>

#include "shadowmmu/concepts/grace.hpp"
#include "shadowmmu/memory/smp.hpp"

// The sanitizer of threads does not see what liburcu orders (0.13 is built without it and uses assembly): without being
// told, it takes every free after a grace period for a race with the sections before.
#if defined(__SANITIZE_THREAD__)
#define URCU_GRACE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define URCU_GRACE_TSAN 1
#endif
#endif
#ifdef URCU_GRACE_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/// Grace periods of an embedder that has RCU already: liburcu, its `memb` flavour, which is what plain -lurcu means.
/// Its sections are the cheapest of those that need no quiescent states (no locked instruction, where grace::Epochs has
/// one). The price: each thread that calls into the Mmu must be registered (urcu_memb_register_thread; `Registered`
/// below), for nothing waits for a section of one that is not, and nobody says so. To test for it, compile with
/// _LGPL_SOURCE and DEBUG_RCU. The `bp` flavour registers by itself and has slower sections: put `bp` for `memb`.
///
/// There is one RCU for the whole process: a section of yours delays the Mmu's frees. More important: inside of one do
/// not call what takes a lock of the Mmu (the docstrings say which do): its holder may be waiting for your section, or
/// you for your own. In a Host function do not wait for a grace period: the Mmu calls some of them inside a section.
/// Nor destroy an Mmu in a callback of call_rcu.
struct UrcuGrace {
  /// What a thread holds as long as it uses the Mmu. Not the Reader: a vCPU is often made by another thread than the
  /// one that runs it, and liburcu's registration is the thread's.
  struct Registered {
    Registered() noexcept { urcu_memb_register_thread(); }
    Registered(const Registered&) = delete;
    Registered& operator=(const Registered&) = delete;
    ~Registered() { urcu_memb_unregister_thread(); }
  };

  template <class M>
  class Domain {
    static_assert(M::kManyAgents,
                  "liburcu's callbacks run in a thread of their own: a lock with memory::Smp is needed");

   public:
    static constexpr bool kByFlush = false;
    struct Reader {};  ///< liburcu keeps its own, one a thread

    /// Effects: liburcu's helper thread exists from here on: begin must not have to make it under the Mmu's lock.
    Domain() noexcept { static_cast<void>(urcu_memb_get_default_call_rcu_data()); }
    Domain(const Domain&) = delete;
    Domain& operator=(const Domain&) = delete;
    /// Effects: waits for a callback that is still queued, since it is part of this. Requires: in no section.
    ~Domain() {
      while (queued()) urcu_memb_barrier();
    }

    void add(Reader&) noexcept {}
    void remove(Reader&) noexcept {}
    void enter(Reader&) noexcept { urcu_memb_read_lock(); }
    void leave(Reader&) noexcept {
#ifdef URCU_GRACE_TSAN
      __tsan_release(&ticket_);
#endif
      urcu_memb_read_unlock();
    }

    /// Effects: begins a grace period. The Mmu asks for another only when the former has passed or a wait() came after
    /// it; but wait() leaves the callback of the former in liburcu's queue, where it must not be put twice and stands
    /// for a period that began too early. Then the new one begins with the first `passed` after it has run.
    [[nodiscard]] std::uint64_t begin() noexcept {
      begun_ += 1;
      if (!queued()) queue();
      return begun_;
    }
    /// Effects: none that its caller sees; see begin. Never blocks: liburcu 0.13 (Debian 12) cannot be asked how far it
    /// is, so that a callback tells. From 0.14 on, start_poll_synchronize_rcu and poll_state_synchronize_rcu would do.
    [[nodiscard]] bool passed(std::uint64_t period) const noexcept {
      // One look for both questions: the callback may run between two.
      const std::uint64_t now = M::template load<Order::Acquire>(ticket_.passed);
      if (now < period && now == M::plain(ticket_.serves)) queue();
      if (now >= period) sections_ended();
      return now >= period;
    }
    /// Under one of the Mmu's two locks, the other's holder may be in `begin` or `passed`: touches nothing of this.
    void wait() noexcept {
      assert(!urcu_memb_read_ongoing());  // would wait for itself
      urcu_memb_synchronize_rcu();
      sections_ended();
    }

   private:
    using Order = shadowmmu::memory::Order;
    /// What liburcu's helper thread sees of this. First member: the head that it hands back.
    struct Ticket {
      rcu_head head{};
      std::uint64_t serves = 0;  ///< the period that the callback was last queued for; rests while it is queued
      std::uint64_t passed = 0;  ///< cell: the last period whose callback has run
    };
    static_assert(std::is_standard_layout_v<Ticket>);

    void sections_ended() const noexcept {
#ifdef URCU_GRACE_TSAN
      __tsan_acquire(&ticket_);
#endif
    }
    /// Its last access ends a use of the head: from then on it may be queued again, or be gone.
    static void on_passed(rcu_head* head) noexcept {
      auto& t = *reinterpret_cast<Ticket*>(head);
      M::template store<Order::Release>(t.passed, M::plain(t.serves));
    }
    [[nodiscard]] bool queued() const noexcept {
      return M::template load<Order::Acquire>(ticket_.passed) != M::plain(ticket_.serves);
    }
    void queue() const noexcept {
      M::plain(ticket_.serves, begun_);
      urcu_memb_call_rcu(&ticket_.head, on_passed);
    }

    std::uint64_t begun_ = 0;
    alignas(64) mutable Ticket ticket_;
  };
};
static_assert(shadowmmu::Grace<UrcuGrace>);
