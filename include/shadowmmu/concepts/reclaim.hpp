// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "shadowmmu/eviction_plan.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// What a policy may be told beyond creation and removal. It names what it wants; an undeclared hook is never called,
/// and costs nothing.
///   Link      on_link(parent, child): an entry of parent points at child now
///   Unlink    on_unlink(parent, child): one does not any more
///   Entry     on_entry(page, live): an entry was set in page, by a fault as a rule; it has `live` of them now
///   RootLoad  on_root_load(root): a vCPU runs on it from now on
///   Strand    on_strands(page, yes): evicting it would leave a child that nothing else points at, or would no more.
///             A child is one page's own while exactly one entry points at it
///             (with two from the same page, which guests hardly have, it is nobody's). Told in the order of events,
///             first `yes`
///   Orphan    on_orphan(page, yes): no entry points at it any more, after one did; or one does, for the first
///             time or again
/// Of one event Strand and Orphan come first, then Link or Unlink, then Entry.
enum class Hook : std::uint8_t { None = 0, Link = 1, Unlink = 2, Entry = 4, RootLoad = 8, Strand = 16, Orphan = 32 };
[[nodiscard]] constexpr Hook operator|(Hook a, Hook b) noexcept {
  return static_cast<Hook>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
[[nodiscard]] constexpr bool wants(Hook set, Hook h) noexcept {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(h)) != 0;
}

/// What a policy learns of a page at its creation.
struct PageFacts {
  Level level{1};
  bool direct = false;
  /// The same number whenever the same guest table is shadowed in the same role: for memories of pages that have gone.
  std::uint64_t identity = 0;
};

/// What `victim` may ask of a page. The core's view answers; a policy sees nothing else of a shadow page.
template <class V, class S>
concept ReclaimView = requires(const V& v, S& s) {
  { v.pinned(s) }
  noexcept->std::same_as<bool>;
  { v.live(s) }
  noexcept->std::same_as<unsigned>;
  { v.level(s) }
  noexcept->std::same_as<Level>;
  { v.test_and_clear_accessed(s) }
  noexcept->std::same_as<bool>;
};

namespace detail {
template <class S>
struct AnyView {
  bool pinned(S&) const noexcept { return false; }
  unsigned live(S&) const noexcept { return 0; }
  Level level(S&) const noexcept { return Level{1}; }
  bool test_and_clear_accessed(S&) const noexcept { return false; }
};

// A hook is checked both ways: declared but not callable, and present but not declared, are both errors.
template <class R, class S>
concept LinkHook = requires(R& r, S& parent, S& child) {
  { r.on_link(parent, child) }
  noexcept;
};
template <class R, class S>
concept UnlinkHook = requires(R& r, S& parent, S& child) {
  { r.on_unlink(parent, child) }
  noexcept;
};
template <class R, class S>
concept EntryHook = requires(R& r, S& page, unsigned live) {
  { r.on_entry(page, live) }
  noexcept;
};
template <class R, class S>
concept RootHook = requires(R& r, S& root) {
  { r.on_root_load(root) }
  noexcept;
};
template <class R, class S>
concept StrandHook = requires(R& r, S& page, bool yes) {
  { r.on_strands(page, yes) }
  noexcept;
};
template <class R, class S>
concept OrphanHook = requires(R& r, S& page, bool yes) {
  { r.on_orphan(page, yes) }
  noexcept;
};
template <class R>
concept NamesStrand = requires {
  &R::on_strands;
};
template <class R>
concept NamesOrphan = requires {
  &R::on_orphan;
};
template <class R>
concept NamesLink = requires {
  &R::on_link;
};
template <class R>
concept NamesUnlink = requires {
  &R::on_unlink;
};
template <class R>
concept NamesEntry = requires {
  &R::on_entry;
};
template <class R>
concept NamesRoot = requires {
  &R::on_root_load;
};
}  // namespace detail

/// State of a page in the policy's order; the shadow page derives from it.
template <class R>
concept ReclaimState = std::is_class_v<typename R::PageState> && std::is_default_constructible_v<typename R::PageState>;

/// Whether a policy brings a plan.
template <class R>
concept ReclaimPlans = requires(const R& r) {
  { r.kPlan } -> std::convertible_to<EvictionPlan>;
};

/// A plan that is a constant leaves room for a fault. One that is set at run time is its setter's affair.
template <class R>
concept ReclaimPlanConstant = requires {
  typename std::bool_constant<plan_sane(R::kPlan)>;
};
template <class R>
concept ReclaimPlanSane = !ReclaimPlanConstant<R> || plan_sane(R::kPlan);

/// The required four: creation, removal, victim, and the list of optional hooks. `victim` returns nullptr only if every
/// page is pinned; what it returns has been told to it and is not pinned.
template <class R>
concept ReclaimCore = ReclaimState<R> &&
    requires(R& r, typename R::PageState& s, const detail::AnyView<typename R::PageState>& v) {
  { R::kHooks } -> std::convertible_to<Hook>;
  { r.on_create(s, PageFacts{}) }
  noexcept;
  { r.on_remove(s) }
  noexcept;
  { r.victim(v) }
  noexcept->std::same_as<typename R::PageState*>;
};

/// Every declared hook is callable with the right signature.
template <class R, class S = typename R::PageState>
concept ReclaimHooksCallable = (!wants(R::kHooks, Hook::Link) || detail::LinkHook<R, S>)&&(
    !wants(R::kHooks, Hook::Unlink) ||
    detail::UnlinkHook<R, S>)&&(!wants(R::kHooks, Hook::Entry) ||
                                detail::EntryHook<R, S>)&&(!wants(R::kHooks, Hook::RootLoad) ||
                                                           detail::RootHook<
                                                               R, S>)&&(!wants(R::kHooks, Hook::Strand) ||
                                                                        detail::StrandHook<
                                                                            R, S>)&&(!wants(R::kHooks, Hook::Orphan) ||
                                                                                     detail::OrphanHook<R, S>);

/// Every hook that exists is declared.
template <class R>
concept ReclaimHooksDeclared = (wants(R::kHooks, Hook::Link) || !detail::NamesLink<R>)&&(
    wants(R::kHooks, Hook::Unlink) ||
    !detail::NamesUnlink<R>)&&(wants(R::kHooks, Hook::Entry) ||
                               !detail::NamesEntry<R>)&&(wants(R::kHooks, Hook::RootLoad) ||
                                                         !detail::NamesRoot<R>)&&(wants(R::kHooks, Hook::Strand) ||
                                                                                  !detail::NamesStrand<
                                                                                      R>)&&(wants(R::kHooks,
                                                                                                  Hook::Orphan) ||
                                                                                            !detail::NamesOrphan<R>);

template <class R>
concept Reclaim = ReclaimCore<R> && ReclaimHooksCallable<R> && ReclaimHooksDeclared<R> && ReclaimPlanSane<R>;

}  // namespace shadowmmu
