// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <type_traits>

#include "shadowmmu/concepts/memory.hpp"

namespace shadowmmu {

/// Mutual exclusion, all noexcept. `contended` tells whether somebody waits, so that long work can yield.
template <class L>
concept LockExclusion = requires(L& l, const L& c) {
  { l.lock() }
  noexcept;
  { l.unlock() }
  noexcept;
  { c.contended() }
  noexcept->std::same_as<bool>;
};

/// The memory facade that goes with the lock: `memory::Up` for one agent, `memory::Smp` for several.
template <class L>
concept LockMemory = MemoryAccess<typename L::Memory>;

/// What a capability token carries: nothing, or (lock::Checked) who minted it and when.
template <class L>
concept LockTokens = requires(const L& c, typename L::Token t) {
  requires std::is_trivially_copyable_v<typename L::Token>;
  { c.token() }
  noexcept->std::same_as<typename L::Token>;
  { c.verify(t) }
  noexcept;
};

template <class L>
concept Lock = LockExclusion<L> && LockMemory<L> && LockTokens<L>;

/// What a token allows its bearer to touch.
enum class Cap : unsigned char { Rmap, Entries, Structure };

/// Proof that a lock is held: empty (unless checked), copyable, passed by value, minted only by guards. A function
/// that takes a Held cannot yield the lock; one that may takes the guard itself.
template <class L, Cap C>
class Held {
 public:
  /// A stronger capability weakens by itself.
  template <Cap D>
  requires(D > C) constexpr Held(Held<L, D> o) noexcept : token_(o.token_) {}  // NOLINT(google-explicit-constructor)
  /// Effects: none, or a report (lock::Checked) if the lock is another's or the guard is gone.
  constexpr void verify(const L& l) const noexcept { l.verify(token_); }

 private:
  template <class, Cap>
  friend class Held;
  template <class>
  friend class Mint;
  constexpr explicit Held(typename L::Token t) noexcept : token_(t) {}
  [[no_unique_address]] typename L::Token token_;
};

/// The only maker of tokens; guards derive from it.
template <class L>
class Mint {
 protected:
  template <Cap C>
  [[nodiscard]] static constexpr Held<L, C> mint(const L& l) noexcept {
    return Held<L, C>{l.token()};
  }
};

}  // namespace shadowmmu
