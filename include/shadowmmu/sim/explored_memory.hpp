// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <type_traits>

#include "shadowmmu/concepts/memory.hpp"
#include "shadowmmu/memory/order.hpp"
#include "shadowmmu/sim/execution.hpp"

namespace shadowmmu::sim {

/// Memory access under the interleaving explorer: of x86, or, if asked for, of the C++ memory model (stale_reads.hpp).
/// Under the sanitizer of threads: real atomics, of the order that was asked for, sequentially consistent in what they
/// find: the sanitizer tells where what one agent wrote is read by another and no order of memory says that it may be,
/// whichever interleaving is explored. Else as x86 orders it: loads and stores of any order but SeqCst compile to plain
/// moves there, so Release and Acquire add nothing to x86-TSO. Where stores are weak a Release is what keeps a store
/// behind those before it, as the C++ model has it; loads stay in order, and a locked instruction is a full fence.
/// Outside of an explored agent: plain memory.
struct ExploredMemory {
  static constexpr bool kManyAgents = true;

  template <memory::Order O, class T>
  [[nodiscard]] static T load(const T& cell) noexcept {
    Execution* e = Execution::current();
    if (e == nullptr) return cell;
    if constexpr (kRacesShow) {
      choose(footprint_of(cell));
      return __atomic_load_n(&cell, static_cast<int>(O));
    } else {
      e->point(footprint_of(cell), false);
      return e->cxx() ? e->read(cell, O) : e->read(cell);
    }
  }
  template <memory::Order O, class T>
  static void store(T& cell, std::type_identity_t<T> v) noexcept {
    Execution* e = Execution::current();
    if (e == nullptr) {
      cell = v;
    } else if constexpr (kRacesShow) {
      choose(footprint_of(cell));
      __atomic_store_n(&cell, v, static_cast<int>(O));
      changed();
    } else if (e->cxx()) {
      e->point(footprint_of(cell), false);
      e->write(cell, v, O);
    } else if (O == memory::Order::SeqCst) {
      // gcc and clang emit xchg.
      exchange<O>(cell, v);
    } else {
      // Into the buffer nobody looks: the choices come where the store leaves it.
      if (!e->tso()) e->point(footprint_of(cell), false);
      e->write(cell, v, O == memory::Order::Release);
    }
  }
  template <memory::Order O, class T>
  static T exchange(T& cell, std::type_identity_t<T> v) noexcept {
    if constexpr (kRacesShow) {
      choose(footprint_of(cell));
      const T old = __atomic_exchange_n(&cell, v, static_cast<int>(O));
      changed();
      return old;
    }
    return locked<O>(cell, [v](T& now) { return static_cast<void>(now = v), true; });
  }
  template <memory::Order O, class T>
  [[nodiscard]] static bool compare_exchange(T& cell, T& expected, std::type_identity_t<T> desired) noexcept {
    if constexpr (kRacesShow) {
      choose(footprint_of(cell));
      const bool done =
          __atomic_compare_exchange_n(&cell, &expected, desired, false, static_cast<int>(O), __ATOMIC_RELAXED);
      if (done) changed();
      return done;
    }
    const T wanted = expected;
    expected = locked<O>(cell, [&](T& now) { return now == wanted && (static_cast<void>(now = desired), true); });
    return expected == wanted;
  }
  template <memory::Order O, class T>
  static T fetch_add(T& cell, std::type_identity_t<T> v) noexcept {
    if constexpr (kRacesShow) {
      choose(footprint_of(cell));
      const T old = __atomic_fetch_add(&cell, v, static_cast<int>(O));
      if (v != 0) changed();
      return old;
    }
    return locked<O>(cell, [v](T& now) { return static_cast<void>(now = static_cast<T>(now + v)), true; });
  }
  template <memory::Order O>
  static void fence() noexcept {
    if constexpr (kRacesShow) return;  // the sanitizer models none
    // Only a full fence is an instruction on x86.
    Execution* e = Execution::current();
    if (e != nullptr && e->cxx()) {
      if (O == memory::Order::SeqCst) e->point({}, true);
      return e->fence(O);
    }
    if (e == nullptr || !e->tso()) return;
    if (O != memory::Order::SeqCst) {
      if (O == memory::Order::Release || O == memory::Order::AcqRel) e->release_fence();
      return;
    }
    e->point({}, true);
    e->drain_own();
  }
  static void pause() noexcept {
    const Unseen unseen;
    if (Execution* e = Execution::current()) e->pause();
  }
  template <class T>
  [[nodiscard]] static T plain(const T& cell) noexcept {
    if constexpr (kRacesShow) return __atomic_load_n(&cell, __ATOMIC_RELAXED);
    Execution* e = Execution::current();
    return e == nullptr ? cell : e->cxx() ? e->read(cell, memory::Order::Relaxed) : e->read(cell);
  }
  /// The store buffer takes it too: it must not overtake the release that follows it, nor be seen before it.
  template <class T>
  static void plain(T& cell, std::type_identity_t<T> v) noexcept {
    Execution* e = Execution::current();
    if constexpr (kRacesShow) {
      __atomic_store_n(&cell, v, __ATOMIC_RELAXED);
      changed();
    } else if (e != nullptr && e->cxx()) {
      e->write(cell, v, memory::Order::Relaxed);
    } else if (e != nullptr) {
      e->write(cell, v, false);
    } else {
      cell = v;
    }
  }

 private:
  /// For real atomics: somebody else may act first; others see that something changed.
  static void choose(Footprint where) noexcept {
    const Unseen unseen;
    if (Execution* e = Execution::current()) e->point(where, false);
  }
  static void changed() noexcept {
    const Unseen unseen;
    if (Execution* e = Execution::current()) e->changed();
  }
  /// `update`: changes the value in place, or returns false.
  template <memory::Order O, class T, class F>
  static T locked(T& cell, F update) noexcept {
    Execution* e = Execution::current();
    if (e != nullptr) {
      e->point(footprint_of(cell), true);
      e->drain_own();
    }
    const T old = cell;
    T v = old;
    const bool stores = update(v);
    if (e == nullptr) {
      cell = v;
    } else if (e->cxx()) {
      // What fails is a relaxed load, of the newest value all the same.
      e->found(cell, stores ? O : memory::Order::Relaxed);
      if (stores) e->write(cell, v, O, true);
    } else {
      e->write_through(cell, v);
    }
    return old;
  }
};
static_assert(MemoryAccess<ExploredMemory>);

/// Effects: inside an explored agent, fails the run at once if the condition does not hold; elsewhere nothing.
inline void require(bool holds, const char* what = "require() does not hold") {
  const Unseen unseen;
  if (Execution* e = Execution::current()) e->require(holds, what);
}

}  // namespace shadowmmu::sim
