// SPDX-License-Identifier: BSL-1.0
#include "reclaim/bound.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <unordered_map>

namespace shadowmmu::bench {
namespace {

constexpr std::size_t kStretches = 512;

/// One table's visits (touches with no other table's between), in order; times count the touches of the trace.
struct History {
  std::vector<std::uint32_t> from, to;  ///< times of a visit's first and last touch
  std::vector<std::uint32_t> again;     ///< hits if held since: 1 + the visit of the same entry's touch before
  std::vector<std::uint32_t> end;       ///< by visit: where its part of `again` ends
  std::uint64_t certain = 0;            ///< touches of what the same visit has touched: hits for every policy
};

[[nodiscard]] std::vector<History> histories(const Tree& tree) {
  std::vector<History> all(tree.tables.size());
  std::unordered_map<std::uint64_t, std::uint32_t> last;
  last.reserve(tree.pages * 2);
  std::uint32_t now = 0;
  std::uint32_t before = Tree::kNone;
  for (const Tree::Step& s : tree.steps) {
    if (s.leaf == Tree::kNone) continue;
    History& h = all[s.leaf];
    if (s.leaf != before) {
      h.from.push_back(now);
      h.to.push_back(now);
      h.end.push_back(static_cast<std::uint32_t>(h.again.size()));
    }
    before = s.leaf;
    h.to.back() = now++;
    const auto visit = static_cast<std::uint32_t>(h.from.size());
    std::uint32_t& seen = last[std::uint64_t{s.leaf} << 9U | s.entry()];
    if (seen == visit)
      h.certain += 1;
    else if (seen != 0)
      h.again.push_back(seen);
    h.end.back() = static_cast<std::uint32_t>(h.again.size());
    seen = visit;
  }
  return all;
}

/// Values by start of a run: prefixes gain, the whole changes by an offset, the largest is asked for.
class Runs {
 public:
  void reset(std::size_t n) {
    size_ = 1;
    while (size_ < n) size_ *= 2;
    most_.assign(2 * size_, kNever);
    gain_.assign(2 * size_, 0);
  }
  void set(std::size_t at, double value) {
    std::size_t node = at + size_;
    double above = 0;
    for (std::size_t n = node / 2; n >= 1; n /= 2) above += gain_[n];
    most_[node] = value - above;
    gain_[node] = 0;
    lift(node);
  }
  /// Effects: all of [0, end) gain 1.
  void add_prefix(std::size_t end) {
    // The nodes that make up a prefix are the left siblings on the way up from its end.
    std::size_t node = end + size_;
    if (end >= size_) {
      most_[1] += 1;
      gain_[1] += 1;
      return;
    }
    for (std::size_t n = node; n > 1; n /= 2) {
      if (n % 2 == 1) {
        most_[n - 1] += 1;
        gain_[n - 1] += 1;
      }
      most_[n / 2] = std::max(most_[n / 2 * 2], most_[n / 2 * 2 + 1]) + gain_[n / 2];
    }
  }
  [[nodiscard]] double most() const noexcept { return most_[1]; }
  [[nodiscard]] std::uint32_t where() const noexcept {
    std::size_t n = 1;
    while (n < size_) n = most_[2 * n] >= most_[2 * n + 1] ? 2 * n : 2 * n + 1;
    return static_cast<std::uint32_t>(n - size_);
  }

 private:
  static constexpr double kNever = -1e300;
  void lift(std::size_t node) {
    for (std::size_t n = node / 2; n >= 1; n /= 2) most_[n] = std::max(most_[2 * n], most_[2 * n + 1]) + gain_[n];
  }
  std::size_t size_ = 1;
  std::vector<double> most_, gain_;
};

class Dual {
 public:
  Dual(const Tree& tree, std::uint32_t limit)
      : touches_(tree.touches), places_(static_cast<double>(limit) - 4), histories_(histories(tree)) {
    price_.assign(kStretches, 0);
    // Where a space comes to a kernel page, its one fault may also be the page's refill.
    again_ = static_cast<double>(tree.touches) - static_cast<double>(tree.least_faults);
  }
  /// Returns: a lower bound on refaults at the present prices; what is held then is in `held_`.
  [[nodiscard]] double value() {
    // paid_[t]: the price of all moments before t.
    paid_.resize(touches_ + 1);
    paid_[0] = 0;
    for (std::uint64_t t = 0; t < touches_; ++t) paid_[t + 1] = paid_[t] + price_[stretch(t)];
    held_.assign(kStretches, 0);
    double best = 0;
    for (const History& h : histories_) {
      best += static_cast<double>(h.certain);
      if (h.from.size() > 1) best += best_of(h);
    }
    return again_ - best - places_ * paid_[touches_];
  }
  /// Effects: prices follow scarcity. `goal`: what the bound is hoped to become.
  void step(double now, double goal) {
    double norm = 0;
    for (std::size_t s = 0; s < kStretches; ++s) {
      held_[s] -= places_ * length(s);
      if (price_[s] > 0 || held_[s] > 0) norm += held_[s] * held_[s];
    }
    if (norm == 0) return;
    const double size = (goal - now) / norm;
    for (std::size_t s = 0; s < kStretches; ++s) price_[s] = std::max(0.0, price_[s] + size * held_[s]);
  }
  [[nodiscard]] std::vector<double>& prices() noexcept { return price_; }

 private:
  [[nodiscard]] std::size_t stretch(std::uint64_t t) const noexcept {
    return static_cast<std::size_t>(t * kStretches / touches_);
  }
  [[nodiscard]] double length(std::size_t s) const noexcept {
    const auto first = [&](std::size_t n) { return (n * touches_ + kStretches - 1) / kStretches; };
    return static_cast<double>(first(s + 1) - first(s));
  }
  /// The price of being held from one visit to the next: the moments between them.
  [[nodiscard]] double rent(const History& h, std::size_t k) const noexcept {
    return paid_[h.from[k + 1]] - paid_[h.to[k] + 1];
  }
  /// Returns: the most that hits less rent of one table can come to.
  [[nodiscard]] double best_of(const History& h) {
    const std::size_t n = h.from.size();
    runs_.reset(n);
    start_.resize(n);
    double spent = 0;  // rent that all open runs have paid since the first touch
    double best = 0;
    for (std::size_t k = 0; k < n; ++k) {
      if (k != 0) {
        spent += rent(h, k - 1);
        for (std::uint32_t a = h.end[k - 1]; a < h.end[k]; ++a) runs_.add_prefix(h.again[a]);
      }
      runs_.set(k, best + spent);
      best = runs_.most() - spent;
      start_[k] = runs_.where();
    }
    for (std::size_t k = n - 1;;) {
      const std::size_t i = start_[k];
      for (std::size_t gap = i; gap < k; ++gap) hold(h.to[gap] + 1, h.from[gap + 1]);
      if (i == 0) break;
      k = i - 1;
    }
    return best;
  }
  void hold(std::uint64_t from, std::uint64_t to) noexcept {
    while (from < to) {
      const std::size_t s = stretch(from);
      const std::uint64_t end = std::min<std::uint64_t>(to, ((s + 1) * touches_ + kStretches - 1) / kStretches);
      held_[s] += static_cast<double>(end - from);
      from = end;
    }
  }

  std::uint64_t touches_;
  double places_;
  double again_ = 0;
  std::vector<History> histories_;
  std::vector<double> price_, paid_, held_;
  std::vector<std::uint32_t> start_;
  Runs runs_;
};

}  // namespace

LowerBound lower_bound(const Tree& tree, std::uint32_t limit, unsigned steps) {
  if (limit <= 4) throw std::runtime_error("a bound needs a limit above 4");
  Dual dual(tree, limit);
  LowerBound result;
  double best = -1e300;
  double now = 0;
  double price = 0;
  // One price for the whole trace first: the bound is concave in it.
  for (double p = 0.07 / static_cast<double>(limit); p > 1e-7; p /= 3) {
    std::fill(dual.prices().begin(), dual.prices().end(), p);
    now = dual.value();
    result.steps += 1;
    if (now < best) break;
    best = now;
    price = p;
  }
  std::fill(dual.prices().begin(), dual.prices().end(), price);
  now = dual.value();
  for (unsigned n = 0; n < steps; ++n) {
    dual.step(now, best + (std::abs(best) + 1000) * 0.15 / (1 + n * 0.5));
    now = dual.value();
    result.steps += 1;
    best = std::max(best, now);
  }
  result.refaults = static_cast<std::uint64_t>(std::max(0.0, std::ceil(best - 1e-3)));
  return result;
}

}  // namespace shadowmmu::bench
