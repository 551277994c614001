// SPDX-License-Identifier: BSL-1.0
#pragma once

/// The one door to Boost.Intrusive. Its assertions go to the embedder's handler and exist only without NDEBUG, so that
/// a freestanding release build needs nothing but mem* functions.
#if !defined(NDEBUG) && !defined(BOOST_INTRUSIVE_INVARIANT_ASSERT)
extern "C" [[noreturn]] void shadowmmu_assert_fail(const char* what) noexcept;
#define BOOST_INTRUSIVE_INVARIANT_ASSERT(c) ((c) ? (void)0 : shadowmmu_assert_fail(#c))
#define BOOST_INTRUSIVE_SAFE_HOOK_DEFAULT_ASSERT(c) ((c) ? (void)0 : shadowmmu_assert_fail(#c))
#define BOOST_INTRUSIVE_SAFE_HOOK_DESTRUCTOR_ASSERT(c) ((c) ? (void)0 : shadowmmu_assert_fail(#c))
#endif
#ifdef __clang__
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wconversion"
#else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#endif
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/slist.hpp>
#ifdef __clang__
#pragma clang diagnostic pop
#else
#pragma GCC diagnostic pop
#endif

namespace shadowmmu {
namespace intrusive = boost::intrusive;

/// Hook and list of one name: 16 bytes, unlink in constant time.
template <class Tag>
using ListHook = intrusive::list_base_hook<intrusive::tag<Tag>, intrusive::link_mode<intrusive::normal_link>>;
template <class T, class Tag>
using List = intrusive::list<T, intrusive::base_hook<ListHook<Tag>>, intrusive::constant_time_size<false>>;

/// The same as members, for what must not stand at the front of an object.
using ListMemberHook = intrusive::list_member_hook<intrusive::link_mode<intrusive::normal_link>>;
template <class T, ListMemberHook T::*M>
using MemberList =
    intrusive::list<T, intrusive::member_hook<T, ListMemberHook, M>, intrusive::constant_time_size<false>>;

/// Chain of a hash bucket: 8 bytes; unlink scans the (short) chain.
using ChainMemberHook = intrusive::slist_member_hook<intrusive::link_mode<intrusive::normal_link>>;
template <class T, ChainMemberHook T::*M>
using MemberChain = intrusive::slist<T, intrusive::member_hook<T, ChainMemberHook, M>,
                                     intrusive::constant_time_size<false>, intrusive::linear<true>>;
}  // namespace shadowmmu
