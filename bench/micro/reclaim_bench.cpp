// SPDX-License-Identifier: BSL-1.0
#include "micro/world.hpp"
#include "shadowmmu/shadowmmu.hpp"

/// Reclaim policies by themselves: one page goes and one comes, among very many.
namespace shadowmmu::bench {
namespace {

/// Pages in a row. Of those that the policy looks at every other one has been accessed.
template <class P>
class Crowd {
 public:
  explicit Crowd(std::size_t n) : pages_(n) {
    for (auto& p : pages_) add(p);
  }
  /// Effects: the victim goes, and comes back as a new page with some entries.
  void turn() {
    auto* s = policy_.victim(View{*this});
    if (s == nullptr) std::abort();
    auto& p = static_cast<Page&>(*s);
    policy_.on_remove(p);
    add(p);
  }

 private:
  struct Page : P::PageState {
    unsigned live = 0;
  };
  struct View {
    Crowd& crowd;
    [[nodiscard]] bool pinned(typename P::PageState&) const noexcept { return false; }
    [[nodiscard]] unsigned live(typename P::PageState& s) const noexcept { return static_cast<Page&>(s).live; }
    [[nodiscard]] Level level(typename P::PageState&) const noexcept { return Level{1}; }
    [[nodiscard]] bool test_and_clear_accessed(typename P::PageState&) const noexcept {
      return (crowd.random_.next() >> 63U) != 0;
    }
  };
  void add(Page& p) {
    static_cast<typename P::PageState&>(p) = typename P::PageState{};
    p.live = 1 + static_cast<unsigned>(random_.next() >> 55U);
    policy_.on_create(p, PageFacts{Level{1}, false, reinterpret_cast<std::uintptr_t>(&p)});
    if constexpr (wants(P::kHooks, Hook::Entry)) policy_.on_entry(p, p.live);
  }
  P policy_;
  sim::Random random_{5};
  std::vector<Page> pages_;
};

template <class P>
void victim(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  Crowd<P> crowd(n);
  for (std::size_t i = 0; i < 2 * n; ++i) crowd.turn();
  for (auto _ : state) crowd.turn();
  state.SetLabel("one page evicted and one created among " + std::to_string(n));
}
#define SHADOWMMU_VICTIM(...) \
  BENCHMARK_TEMPLATE(victim, __VA_ARGS__)->RangeMultiplier(32)->Range(1 << 10, 1 << 20)->Iterations(1 << 20)
SHADOWMMU_VICTIM(reclaim::Fifo);
SHADOWMMU_VICTIM(reclaim::ParentTouch);
SHADOWMMU_VICTIM(reclaim::LeafFirst);
SHADOWMMU_VICTIM(reclaim::FaultLru);
SHADOWMMU_VICTIM(reclaim::XenRoots);
SHADOWMMU_VICTIM(reclaim::Clock<>);
SHADOWMMU_VICTIM(reclaim::Sieve<>);
SHADOWMMU_VICTIM(reclaim::S3Fifo<>);
SHADOWMMU_VICTIM(reclaim::GreedyDual);
SHADOWMMU_VICTIM(reclaim::GreedyDualNoAbit);
SHADOWMMU_VICTIM(reclaim::GreedyDualFrequency);

}  // namespace
}  // namespace shadowmmu::bench
