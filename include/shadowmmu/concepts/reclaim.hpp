// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// What a policy may be told beyond creation and removal. It names what it wants; an undeclared hook is never called.
enum class Hook : std::uint8_t { None = 0, Link = 1, Unlink = 2, Entry = 4, RootLoad = 8 };
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
  { v.orphans(s) }
  noexcept->std::same_as<bool>;
  { v.test_and_clear_accessed(s) }
  noexcept->std::same_as<bool>;
};

namespace detail {
template <class S>
struct AnyView {
  bool pinned(S&) const noexcept { return false; }
  unsigned live(S&) const noexcept { return 0; }
  Level level(S&) const noexcept { return Level{1}; }
  bool orphans(S&) const noexcept { return false; }
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

/// The required four: creation, removal, victim, and the list of optional hooks.
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
template <class R>
concept ReclaimHooksCallable = (!wants(R::kHooks, Hook::Link) || detail::LinkHook<R, typename R::PageState>)&&(
    !wants(R::kHooks, Hook::Unlink) ||
    detail::UnlinkHook<
        R, typename R::PageState>)&&(!wants(R::kHooks, Hook::Entry) ||
                                     detail::EntryHook<R, typename R::PageState>)&&(!wants(R::kHooks, Hook::RootLoad) ||
                                                                                    detail::RootHook<
                                                                                        R, typename R::PageState>);

/// Every hook that exists is declared.
template <class R>
concept ReclaimHooksDeclared = (wants(R::kHooks, Hook::Link) || !detail::NamesLink<R>)&&(
    wants(R::kHooks, Hook::Unlink) ||
    !detail::NamesUnlink<R>)&&(wants(R::kHooks, Hook::Entry) ||
                               !detail::NamesEntry<R>)&&(wants(R::kHooks, Hook::RootLoad) || !detail::NamesRoot<R>);

template <class R>
concept Reclaim = ReclaimCore<R> && ReclaimHooksCallable<R> && ReclaimHooksDeclared<R>;

}  // namespace shadowmmu
