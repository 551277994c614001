// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "shadowmmu/reclaim/credit_order.hpp"

namespace shadowmmu::reclaim {

/// As GreedyDual for tables without Accessed bits (EPT without A/D, PAE): a page is worth its live entries anew at each
/// fault on it. Cost: as GreedyDual's, but no A bit is read.
class GreedyDualNoAbit : public detail::CreditOrder<GreedyDualNoAbit, detail::Entries, false, true> {};
static_assert(Reclaim<GreedyDualNoAbit>);

}  // namespace shadowmmu::reclaim
