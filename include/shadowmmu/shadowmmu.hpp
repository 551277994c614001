// SPDX-License-Identifier: BSL-1.0
#pragma once

/// The whole library for an embedder; hosted parts (host/arena.hpp, sim/) are included by themselves.
#include "shadowmmu/arch/ept.hpp"
#include "shadowmmu/arch/x86_64.hpp"
#include "shadowmmu/config.hpp"
#include "shadowmmu/lock/checked.hpp"
#include "shadowmmu/lock/none.hpp"
#include "shadowmmu/lock/readers.hpp"
#include "shadowmmu/lock/spin.hpp"
#include "shadowmmu/reclaim/fifo.hpp"
#include "shadowmmu/shadow_mmu.hpp"
#include "shadowmmu/version.hpp"
