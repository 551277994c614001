// SPDX-License-Identifier: BSL-1.0
// The test groups; main.cpp runs them in this order.
#pragma once

#include "types.hpp"

namespace paging {

struct Options {
  char only[24] = {};  // copied: the tests overwrite what the loader left
  u32 seed = 1;
  u32 sample = 1;            // the products run one case in so many
  bool high_memory = false;  // RAM from 4 GiB on (the loader says so)
};
extern Options options;

void product_legacy();
void product_pae();
void product_long();
void product_compatibility();
void product_levels();
void flush_tests();
void control_tests();
void alias_tests();
void write_tests();
void event_tests();
void cross_tests();
void mode_tests();
void pdpte_tests();
void odd_tests();
void random_tests();

}  // namespace paging
