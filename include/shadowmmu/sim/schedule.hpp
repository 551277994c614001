// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shadowmmu::sim {

/// The choices of one run. It answers from a prefix, then takes the first option or a random one; it can step to the
/// next run of a depth-first search, and be printed.
class Schedule {
 public:
  static constexpr unsigned kMaxOptions = 36;  ///< one digit or letter each

  /// Effects: every later run starts with this prefix, then takes first options.
  void replay(const std::vector<std::uint8_t>& prefix) {
    choices_.clear();
    for (const std::uint8_t c : prefix) choices_.push_back({c, 0});
    at_ = 0;
    random_.reset();
  }
  /// Effects: the next run draws its choices from a seed.
  void randomize(std::uint64_t seed) {
    choices_.clear();
    at_ = 0;
    random_ = seed;
  }

  /// Returns: one of [0, options). Requires: 1 <= options <= kMaxOptions.
  unsigned choose(unsigned options) {
    if (options == 1) return 0;
    if (at_ < choices_.size()) {
      Choice& c = choices_[at_++];
      c.options = options;
      // A replayed string of another program may not fit; stay inside the options.
      if (c.taken >= options) c.taken = 0;
      return c.taken;
    }
    choices_.push_back({draw(options), options});
    ++at_;
    return choices_.back().taken;
  }

  /// Effects: the next untried run, depth first. Returns: false when every run has been tried.
  bool next() {
    while (!choices_.empty() && choices_.back().taken + 1U == choices_.back().options) choices_.pop_back();
    at_ = 0;
    if (choices_.empty()) return false;
    ++choices_.back().taken;
    return true;
  }

  /// Returns: what was chosen in this run; first options at its end are left out.
  [[nodiscard]] std::string print() const {
    std::string s;
    for (std::size_t i = 0; i < at_; ++i) s += "0123456789abcdefghijklmnopqrstuvwxyz"[choices_[i].taken];
    s.erase(s.find_last_not_of('0') + 1);
    return s;
  }
  [[nodiscard]] static std::optional<std::vector<std::uint8_t>> parse(std::string_view text) {
    std::vector<std::uint8_t> out;
    for (const char c : text) {
      if (c >= '0' && c <= '9') {
        out.push_back(static_cast<std::uint8_t>(c - '0'));
      } else if (c >= 'a' && c <= 'z') {
        out.push_back(static_cast<std::uint8_t>(c - 'a' + 10));
      } else {
        return std::nullopt;
      }
    }
    return out;
  }

 private:
  struct Choice {
    std::uint8_t taken;
    unsigned options;
  };

  // Half the time the first option, which is to go on: a fair coin at every access would never get deep.
  std::uint8_t draw(unsigned options) {
    if (!random_) return 0;
    const std::uint64_t r = step();
    return (r & 1U) != 0 ? std::uint8_t{0} : static_cast<std::uint8_t>((r >> 1U) % options);
  }
  // splitmix64 (Steele, Lea, Flood 2014).
  std::uint64_t step() {
    std::uint64_t z = *random_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }

  std::vector<Choice> choices_;
  std::size_t at_ = 0;
  std::optional<std::uint64_t> random_;
};

}  // namespace shadowmmu::sim
