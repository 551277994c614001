// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/credit_order.hpp"

namespace shadowmmu::reclaim {

/// By cost and age: a page is worth its live entries, each of which is a fault when it comes back, and worth that anew
/// whenever it is found accessed. Source: Young, 1994; Cao and Irani, 1997.
/// Cost: 24 bytes a page, 16 KiB an Mmu; a link or an entry O(1); victim looks at about 2.5 A bits, 64 at most.
class GreedyDual : public detail::CreditOrder<GreedyDual, detail::Entries, true, false> {};
static_assert(Reclaim<GreedyDual>);

}  // namespace shadowmmu::reclaim
