// SPDX-License-Identifier: BSL-1.0
// libFuzzer draws the seeds of the random world's actions, one by one, instead of a generator that goes on from one:
// coverage leads it to what seeds miss.
#include <cstdio>
#include <cstring>

#include "random/library_subject.hpp"
#include "support/test_host.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace shadowmmu;
  constexpr std::size_t kBytes = 2;  // of an action
  if (size < 1) return 0;
  sim::world::Actions actions;
  for (std::size_t at = 1; at + kBytes <= size && actions.size() < 200; at += kBytes) {
    std::uint16_t seed = 0;
    std::memcpy(&seed, data + at, kBytes);
    actions.push_back(sim::world::Generator(seed, false, false).draw(1).front());
  }
  using Mmu = ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, sim::world::Machine, test::SmallLimit>;
  sim::world::World world(data[0], {}, test::library<Mmu>());
  world.tell_story();
  if (!world.run(actions)) {
    for (const std::string& line : world.story()) std::fprintf(stderr, "%s\n", line.c_str());
    std::fprintf(stderr, "%s\n", world.failure().c_str());
    __builtin_trap();
  }
  return 0;
}
