// SPDX-License-Identifier: BSL-1.0
#include <cstdio>
#if __has_include("shadowmmu/shadowmmu.hpp")
#include "shadowmmu/shadowmmu.hpp"
#endif
#include "shadowmmu/types.hpp"
#include "shadowmmu/version.hpp"

int main() {
  const auto [major_number, minor_number, patch_number] = shadowmmu::kVersion;
  std::printf("shadowmmu %u.%u.%u\n", major_number, minor_number, patch_number);
  return shadowmmu::frame_of(shadowmmu::Gpa{0x5000}) == shadowmmu::Gfn{5} ? 0 : 1;
}
