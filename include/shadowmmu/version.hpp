// SPDX-License-Identifier: BSL-1.0
#pragma once

// The one place of the version: the build system reads these three lines.
#define SHADOWMMU_VERSION_MAJOR 0
#define SHADOWMMU_VERSION_MINOR 1
#define SHADOWMMU_VERSION_PATCH 0

namespace shadowmmu {

struct Version {
  unsigned major_number, minor_number, patch_number;
};
inline constexpr Version kVersion{SHADOWMMU_VERSION_MAJOR, SHADOWMMU_VERSION_MINOR, SHADOWMMU_VERSION_PATCH};

}  // namespace shadowmmu
