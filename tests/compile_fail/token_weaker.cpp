// SPDX-License-Identifier: BSL-1.0
// expect: conversion from 'Held<
// A token weakens by itself and never grows stronger.
#include "shadowmmu/lock/none.hpp"

using namespace shadowmmu;
using lock::None;
#ifdef CASE_BAD
void use(Held<None, Cap::Rmap> h) { [[maybe_unused]] Held<None, Cap::Structure> stronger = h; }
#else
void use(Held<None, Cap::Structure> h) { [[maybe_unused]] Held<None, Cap::Rmap> weaker = h; }
#endif
