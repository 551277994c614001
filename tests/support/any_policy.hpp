// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "shadowmmu/shadowmmu.hpp"

namespace shadowmmu::test {

/// A policy of the library, chosen by name when the tests run: SHADOWMMU_TEST_POLICY=Sieve. One build of a suite passes
/// under every policy.
class AnyPolicy {
 public:
  struct alignas(8) PageState {
    std::byte bytes[24];
  };
  static constexpr Hook kHooks = Hook::Link | Hook::Unlink | Hook::Entry | Hook::RootLoad | Hook::Strand | Hook::Orphan;

  AnyPolicy() : AnyPolicy(std::getenv("SHADOWMMU_TEST_POLICY")) {}
  explicit AnyPolicy(const char* name) : own_(make(name == nullptr ? "Fifo" : name)), kPlan(own_->plan()) {}

  void on_create(PageState& p, PageFacts f) noexcept { own_->on_create(p, f); }
  void on_remove(PageState& p) noexcept { own_->on_remove(p); }
  void on_link(PageState& parent, PageState& child) noexcept { own_->on_link(parent, child); }
  void on_unlink(PageState& parent, PageState& child) noexcept { own_->on_unlink(parent, child); }
  void on_entry(PageState& p, unsigned live) noexcept { own_->on_entry(p, live); }
  void on_root_load(PageState& p) noexcept { own_->on_root_load(p); }
  void on_strands(PageState& p, bool yes) noexcept { own_->on_strands(p, yes); }
  void on_orphan(PageState& p, bool yes) noexcept { own_->on_orphan(p, yes); }
  template <class View>
  [[nodiscard]] PageState* victim(const View& view) noexcept {
    return own_->victim(ErasedView<View>(view));
  }

  /// Calls f(name, type) for each policy.
  template <class F>
  static void for_each(F&& f) {
    f("Fifo", std::type_identity<reclaim::Fifo>{});
    f("KvmFifo", std::type_identity<reclaim::KvmFifo<>>{});
    f("ParentTouch", std::type_identity<reclaim::ParentTouch>{});
    f("LeafFirst", std::type_identity<reclaim::LeafFirst>{});
    f("FaultLru", std::type_identity<reclaim::FaultLru>{});
    f("XenRoots", std::type_identity<reclaim::XenRoots>{});
    f("Clock", std::type_identity<reclaim::Clock<>>{});
    f("Sieve", std::type_identity<reclaim::Sieve<>>{});
    f("S3Fifo", std::type_identity<reclaim::S3Fifo<>>{});
    f("GreedyDual", std::type_identity<reclaim::GreedyDual>{});
    f("GreedyDualNoAbit", std::type_identity<reclaim::GreedyDualNoAbit>{});
    f("GreedyDualFrequency", std::type_identity<reclaim::GreedyDualFrequency>{});
  }

 private:
  class View {
   public:
    virtual ~View() = default;
    [[nodiscard]] virtual bool pinned(PageState& p) const noexcept = 0;
    [[nodiscard]] virtual unsigned live(PageState& p) const noexcept = 0;
    [[nodiscard]] virtual Level level(PageState& p) const noexcept = 0;
    [[nodiscard]] virtual bool test_and_clear_accessed(PageState& p) const noexcept = 0;
  };
  template <class V>
  class ErasedView final : public View {
   public:
    explicit ErasedView(const V& view) noexcept : view_(view) {}
    [[nodiscard]] bool pinned(PageState& p) const noexcept override { return view_.pinned(p); }
    [[nodiscard]] unsigned live(PageState& p) const noexcept override { return view_.live(p); }
    [[nodiscard]] Level level(PageState& p) const noexcept override { return view_.level(p); }
    [[nodiscard]] bool test_and_clear_accessed(PageState& p) const noexcept override {
      return view_.test_and_clear_accessed(p);
    }

   private:
    const V& view_;
  };

  class Own {
   public:
    virtual ~Own() = default;
    [[nodiscard]] virtual EvictionPlan plan() const noexcept = 0;
    virtual void on_create(PageState& p, PageFacts f) noexcept = 0;
    virtual void on_remove(PageState& p) noexcept = 0;
    virtual void on_link(PageState& parent, PageState& child) noexcept = 0;
    virtual void on_unlink(PageState& parent, PageState& child) noexcept = 0;
    virtual void on_entry(PageState& p, unsigned live) noexcept = 0;
    virtual void on_root_load(PageState& p) noexcept = 0;
    virtual void on_strands(PageState& p, bool yes) noexcept = 0;
    virtual void on_orphan(PageState& p, bool yes) noexcept = 0;
    [[nodiscard]] virtual PageState* victim(const View& view) noexcept = 0;
  };
  template <class P>
  class Is final : public Own {
    using State = typename P::PageState;
    static_assert(sizeof(State) <= sizeof(PageState) && alignof(State) <= alignof(PageState));
    [[nodiscard]] static State& of(PageState& p) noexcept { return *std::launder(reinterpret_cast<State*>(p.bytes)); }
    [[nodiscard]] static PageState& any(State& s) noexcept { return reinterpret_cast<PageState&>(s); }
    struct TypedView {
      const View& view;
      [[nodiscard]] bool pinned(State& s) const noexcept { return view.pinned(any(s)); }
      [[nodiscard]] unsigned live(State& s) const noexcept { return view.live(any(s)); }
      [[nodiscard]] Level level(State& s) const noexcept { return view.level(any(s)); }
      [[nodiscard]] bool test_and_clear_accessed(State& s) const noexcept {
        return view.test_and_clear_accessed(any(s));
      }
    };

   public:
    [[nodiscard]] EvictionPlan plan() const noexcept override {
      if constexpr (ReclaimPlans<P>)
        return P::kPlan;
      else
        return config::Default::kEviction;
    }
    void on_create(PageState& p, PageFacts f) noexcept override {
      ::new (static_cast<void*>(p.bytes)) State;
      policy_.on_create(of(p), f);
    }
    void on_remove(PageState& p) noexcept override { policy_.on_remove(of(p)); }
    void on_link([[maybe_unused]] PageState& parent, [[maybe_unused]] PageState& child) noexcept override {
      if constexpr (wants(P::kHooks, Hook::Link)) policy_.on_link(of(parent), of(child));
    }
    void on_unlink([[maybe_unused]] PageState& parent, [[maybe_unused]] PageState& child) noexcept override {
      if constexpr (wants(P::kHooks, Hook::Unlink)) policy_.on_unlink(of(parent), of(child));
    }
    void on_entry([[maybe_unused]] PageState& p, [[maybe_unused]] unsigned live) noexcept override {
      if constexpr (wants(P::kHooks, Hook::Entry)) policy_.on_entry(of(p), live);
    }
    void on_root_load([[maybe_unused]] PageState& p) noexcept override {
      if constexpr (wants(P::kHooks, Hook::RootLoad)) policy_.on_root_load(of(p));
    }
    void on_strands([[maybe_unused]] PageState& p, [[maybe_unused]] bool yes) noexcept override {
      if constexpr (wants(P::kHooks, Hook::Strand)) policy_.on_strands(of(p), yes);
    }
    void on_orphan([[maybe_unused]] PageState& p, [[maybe_unused]] bool yes) noexcept override {
      if constexpr (wants(P::kHooks, Hook::Orphan)) policy_.on_orphan(of(p), yes);
    }
    [[nodiscard]] PageState* victim(const View& view) noexcept override {
      State* s = policy_.victim(TypedView{view});
      return s == nullptr ? nullptr : &any(*s);
    }

   private:
    P policy_;
  };

  [[nodiscard]] static std::unique_ptr<Own> make(const char* name) {
    std::unique_ptr<Own> own;
    for_each([&](const char* n, auto type) {
      if (std::strcmp(n, name) == 0) own = std::make_unique<Is<typename decltype(type)::type>>();
    });
    if (own != nullptr) return own;
    std::fprintf(stderr, "SHADOWMMU_TEST_POLICY: no policy '%s'\n", name);
    std::exit(2);
  }
  std::unique_ptr<Own> own_;

 public:
  EvictionPlan kPlan;  // NOLINT(readability-identifier-naming): the concept's name
};
static_assert(Reclaim<AnyPolicy> && ReclaimPlans<AnyPolicy>);

}  // namespace shadowmmu::test
