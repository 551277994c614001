// SPDX-License-Identifier: BSL-1.0
#pragma once

namespace hv {
/// Effects: exceptions of the hypervisor itself are reported from now on.
void install_exception_table() noexcept;
/// Effects: `entry`, which ends in IRET, answers the vector from now on.
void install_handler(unsigned vector, void (*entry)()) noexcept;
}  // namespace hv
