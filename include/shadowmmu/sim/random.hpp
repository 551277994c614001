// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace shadowmmu::sim {

/// A small seeded generator: the same seed gives the same run on every platform and standard library.
/// Source: xoshiro256** seeded by splitmix64, both by Blackman and Vigna, public domain.
class Random {
 public:
  using result_type = std::uint64_t;

  constexpr explicit Random(std::uint64_t seed = 1) noexcept {
    for (std::uint64_t& word : state_) word = split_mix(seed);
  }

  constexpr std::uint64_t next() noexcept {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t carried = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= carried;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  /// Requires: bound > 0. Returns: a number in [0, bound), every one as likely.
  constexpr std::uint64_t below(std::uint64_t bound) noexcept {
    const std::uint64_t unfair = (0 - bound) % bound;  // 2^64 mod bound: the low numbers that would be too likely
    std::uint64_t drawn = next();
    while (drawn < unfair) drawn = next();
    return drawn % bound;
  }

  /// Requires: out_of > 0. Returns: true in `times` of `out_of` draws.
  constexpr bool chance(std::uint64_t times, std::uint64_t out_of) noexcept { return below(out_of) < times; }
  constexpr bool flip() noexcept { return (next() >> 63) != 0; }

  /// Requires: a non-empty random-access sequence.
  template <class Sequence>
  constexpr auto& pick(Sequence& sequence) noexcept {
    return sequence[static_cast<std::size_t>(below(sequence.size()))];
  }

  /// Effects: permutes the sequence, every permutation as likely (Fisher and Yates).
  template <class Sequence>
  constexpr void shuffle(Sequence& sequence) noexcept {
    for (std::size_t left = sequence.size(); left > 1; --left) {
      using std::swap;
      swap(sequence[left - 1], sequence[static_cast<std::size_t>(below(left))]);
    }
  }

  // What the standard library's distributions ask of a generator.
  static constexpr result_type min() noexcept { return 0; }
  static constexpr result_type max() noexcept { return ~result_type{0}; }
  constexpr result_type operator()() noexcept { return next(); }

 private:
  static constexpr std::uint64_t split_mix(std::uint64_t& state) noexcept {
    state += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    return mixed ^ (mixed >> 31);
  }

  std::uint64_t state_[4] = {};
};

}  // namespace shadowmmu::sim
