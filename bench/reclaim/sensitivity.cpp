// SPDX-License-Identifier: BSL-1.0
#include "reclaim/sensitivity.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>

#include "reclaim/model.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/reclaim/default.hpp"

namespace shadowmmu::bench {
namespace {

/// The default's worth with another exponent (in hundredths) and cap, scaled down where the ring of credits is too
/// short for it.
template <unsigned Exponent, unsigned Cap, unsigned Unproven = 8>
struct Worth {
  static constexpr std::uint32_t kMost = 2047;
  static constexpr std::uint32_t kMostFrequency = Cap;
  [[nodiscard]] static std::uint32_t of(unsigned live, std::uint32_t frequency, bool bits) noexcept {
    static const std::array<double, kEntriesPerTable + 1> kPower = [] {
      std::array<double, kEntriesPerTable + 1> t{};
      for (std::size_t n = 0; n < t.size(); ++n) t[n] = std::pow(static_cast<double>(n), Exponent / 100.0);
      return t;
    }();
    static const double kScale = std::min(1.0, kMost / (Cap * kPower[kEntriesPerTable]));
    const auto worth = static_cast<std::uint32_t>(frequency * kPower[live] * kScale);
    const std::uint32_t most = frequency == 1 ? Unproven : frequency == 2 ? 4 * Unproven : kMost;
    return bits ? std::min(worth, most) : std::min(worth, kMost);
  }
};
template <unsigned Exponent, unsigned Cap, bool Abit, bool Fill, unsigned Unproven = 8>
class Other : public reclaim::detail::CreditOrder<Other<Exponent, Cap, Abit, Fill, Unproven>,
                                                  Worth<Exponent, Cap, Unproven>, Abit, Fill> {};

template <class Policy>
[[nodiscard]] std::function<std::uint64_t(const Tree&, std::uint32_t)> under(EvictionPlan plan = {}) {
  return [plan](const Tree& t, std::uint32_t limit) { return Model<Policy>(t, limit, plan).run().refaults; };
}

}  // namespace

std::vector<Variant> variants() {
  using Default = reclaim::Default;
  using When = EvictionPlan::When;
  std::vector<Variant> all;
  all.push_back({"exponent of live entries", "0", false, under<Other<0, 16, true, true>>()});
  all.push_back({"exponent of live entries", "0.25", false, under<Other<25, 16, true, true>>()});
  all.push_back({"exponent of live entries", "0.5", false, under<Other<50, 16, true, true>>()});
  all.push_back({"exponent of live entries", "0.75", true, under<Default>()});
  all.push_back({"exponent of live entries", "1", false, under<Other<100, 16, true, true>>()});
  all.push_back({"most frequency", "1", false, under<Other<75, 1, true, true>>()});
  all.push_back({"most frequency", "2", false, under<Other<75, 2, true, true>>()});
  all.push_back({"most frequency", "4", false, under<Other<75, 4, true, true>>()});
  all.push_back({"most frequency", "8", false, under<Other<75, 8, true, true>>()});
  all.push_back({"most frequency", "16", true, under<Default>()});
  all.push_back({"most frequency", "31", false, under<Other<75, 31, true, true>>()});
  all.push_back({"most worth unproven", "4", false, under<Other<75, 16, true, true, 4>>()});
  all.push_back({"most worth unproven", "8", true, under<Default>()});
  all.push_back({"most worth unproven", "16", false, under<Other<75, 16, true, true, 16>>()});
  all.push_back({"most worth unproven", "any", false, under<Other<75, 16, true, true, 2047>>()});
  all.push_back({"renewed by", "A bits", false, under<Other<75, 16, true, false>>()});
  all.push_back({"renewed by", "faults", false, under<Other<75, 16, false, true>>()});
  all.push_back({"renewed by", "both", true, under<Default>()});
  for (const std::uint16_t n : std::initializer_list<std::uint16_t>{1, 2, 4, 8, 16, 25})
    all.push_back({"pages at once", std::to_string(n), n == 1, under<Default>({.refill = n})});
  for (const std::uint16_t n : std::initializer_list<std::uint16_t>{64, 32, 16, 8, 4})
    all.push_back({"part of the limit at once", "1/" + std::to_string(n), false, under<Default>({.share = n})});
  all.push_back({"room is made", "as needed", true, under<Default>()});
  all.push_back({"room is made", "recursive", false, under<Default>({.children = EvictionPlan::Children::Recursive})});
  all.push_back({"room is made", "ahead, 6", false, under<Default>({.when = When::BeforeWalk, .refill = 6})});
  all.push_back({"room is made", "ahead, 25", false, under<Default>({.when = When::BeforeWalk, .refill = 25})});
  return all;
}

}  // namespace shadowmmu::bench
