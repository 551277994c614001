// SPDX-License-Identifier: BSL-1.0
// libFuzzer draws the actions of the random world instead of a seeded generator: coverage leads it to what seeds miss.
#include <cstdio>
#include <cstring>

#include "random/world.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace shadowmmu;
  constexpr std::size_t kBytes = 1 + 3 * 8;
  if (size < 1) return 0;
  std::vector<test::Action> actions;
  for (std::size_t at = 1; at + kBytes <= size && actions.size() < 200; at += kBytes) {
    test::Action x;
    x.kind = data[at] % test::kKinds;
    std::memcpy(&x.a, data + at + 1, 8);
    std::memcpy(&x.b, data + at + 9, 8);
    std::memcpy(&x.c, data + at + 17, 8);
    actions.push_back(x);
  }
  test::World<ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, test::TestHost, test::SmallLimit>> world(data[0]);
  if (!world.run(actions)) {
    std::fprintf(stderr, "%s\n", world.failure.c_str());
    __builtin_trap();
  }
  return 0;
}
