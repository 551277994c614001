// SPDX-License-Identifier: BSL-1.0
// What a kernel would compile; its object may need nothing but mem* functions.
#include <cstdint>

#include "shadowmmu/types.hpp"

extern "C" std::uint64_t embed(std::uint64_t a) { return shadowmmu::frame_of(shadowmmu::Gpa{a}).value(); }
