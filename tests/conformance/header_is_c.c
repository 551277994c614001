/* SPDX-License-Identifier: BSL-1.0 */
/* conformance.h is C: an MMU that is none, offered by a C file. */
#include "shadowmmu/sim/conformance.h"

static void* create(shadowmmu_kit_machine* machine, const struct shadowmmu_kit_cpu* cpu) {
  (void)machine;
  (void)cpu;
  return 0;
}

int run_an_mmu_that_cannot_be_made(void (*say)(void* to, const char* line), void* to);
int run_an_mmu_that_cannot_be_made(void (*say)(void* to, const char* line), void* to) {
  struct shadowmmu_kit_mmu mmu = {0};
  struct shadowmmu_kit_options options = {0};
  mmu.create = create;
  options.say = say;
  options.to = to;
  return shadowmmu_kit_run(&mmu, &options);
}
