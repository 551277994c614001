// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "reclaim/model.hpp"

/// Policies that know the future, for the model: what an order could come to.
namespace shadowmmu::bench {

/// When each leaf table is touched, by steps of the trace.
class Uses {
 public:
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  explicit Uses(const Tree& tree) : first_(tree.tables.size() + 1) {
    for (const Tree::Step& s : tree.steps)
      if (s.leaf != Tree::kNone) first_[s.leaf + 1] += 1;
    for (std::size_t t = 1; t < first_.size(); ++t) first_[t] += first_[t - 1];
    step_.resize(first_.back());
    next_.assign(first_.begin(), first_.end() - 1);
    for (std::size_t i = 0; i < tree.steps.size(); ++i)
      if (tree.steps[i].leaf != Tree::kNone) step_[next_[tree.steps[i].leaf]++] = static_cast<std::uint32_t>(i);
    next_.assign(first_.begin(), first_.end() - 1);
  }
  /// Returns: the first use after `now`, or kNever. Requires: `now` does not go back. Complexity: amortized O(1).
  [[nodiscard]] std::uint64_t after(std::uint32_t table, std::uint64_t now) noexcept {
    std::uint64_t& n = next_[table];
    while (n < first_[table + 1] && step_[n] <= now) ++n;
    return n < first_[table + 1] ? step_[n] : kNever;
  }

 private:
  std::vector<std::uint64_t> first_, next_;
  std::vector<std::uint32_t> step_;
};

struct OfflineState {
  std::uint32_t table = 0;
  std::uint32_t at = 0;  ///< place among those that strand no child
  bool strands = false;
  bool leaf = false;
};

/// Empty directories first, else the leaf table of least `Cost` / (time to its next use): by table, Belady's MIN.
/// O(pages) a victim.
template <class Cost>
class Offline {
 public:
  using PageState = OfflineState;
  static constexpr Hook kHooks = Hook::Strand;

  void attach(const Foresight& future) {
    future_ = &future;
    uses_ = std::make_unique<Uses>(*future.tree);
  }
  void on_create(PageState& p, PageFacts f) noexcept {
    p.leaf = f.level == Level{1};
    add(p);
  }
  void created(PageState& p, std::uint32_t table) noexcept { p.table = table; }
  void on_remove(PageState& p) noexcept { drop(p); }
  void on_strands(PageState& p, bool yes) noexcept {
    if (yes)
      drop(p);
    else
      add(p);
    p.strands = yes;
  }
  template <class View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    PageState* best = nullptr;
    double least = 0;
    for (PageState* p : harmless_) {
      if (view.pinned(*p)) continue;
      if (!p->leaf) return p;
      const std::uint64_t next = uses_->after(p->table, future_->now);
      if (next == Uses::kNever) return p;
      const double score = Cost::of(view.live(*p)) / static_cast<double>(next - future_->now);
      if (best == nullptr || score < least) best = p, least = score;
    }
    return best;
  }

 private:
  void add(PageState& p) noexcept {
    p.at = static_cast<std::uint32_t>(harmless_.size());
    harmless_.push_back(&p);
  }
  void drop(PageState& p) noexcept {
    harmless_[p.at] = harmless_.back();
    harmless_[p.at]->at = p.at;
    harmless_.pop_back();
  }
  const Foresight* future_ = nullptr;
  std::unique_ptr<Uses> uses_;
  std::vector<PageState*> harmless_;
};

struct ByTable {
  [[nodiscard]] static double of(unsigned) noexcept { return 1; }
};
/// What comes back costs a fault an entry; of many entries not all come back in one visit, hence the exponent, which is
/// the best of those tried. A greedy heuristic, no bound.
struct ByCost {
  [[nodiscard]] static double of(unsigned live) noexcept { return std::pow(live, 0.75); }
};
using BeladyByTable = Offline<ByTable>;
using BeladyByCost = Offline<ByCost>;

}  // namespace shadowmmu::bench
