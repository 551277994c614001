// SPDX-License-Identifier: BSL-1.0
// The few types and helpers that every file of the guest uses.
#pragma once

namespace paging {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr u64 bit(u32 n) { return 1ull << n; }
constexpr u32 low32(u64 v) { return static_cast<u32>(v); }
constexpr u32 high32(u64 v) { return static_cast<u32>(v >> 32); }

template <class T>
u32 address_of(T* p) {
  return reinterpret_cast<u32>(p);
}

// Physical memory below kIdentityLimit is mapped at its own address in every mode.
template <class T>
volatile T& at(u64 pa) {
  return *reinterpret_cast<volatile T*>(low32(pa));
}

constexpr u32 kPageSize = 4096;
constexpr u64 kIdentityLimit = 64ull << 20;
constexpr u64 kFramePool = 16ull << 20;  // small frames: tables and data
constexpr u64 kFramePoolEnd = 24ull << 20;
constexpr u64 kBigTable = 24ull << 20;  // a frame that is also a legal 2 MiB and 4 MiB page
constexpr u64 kBigData = 28ull << 20;   // large-page data from here to kIdentityLimit
constexpr u64 kBigDataStep = 4ull << 20;

// Architectural entry bits (SDM vol. 3A, 4.3 to 4.5).
constexpr u64 kP = bit(0), kW = bit(1), kU = bit(2), kPwt = bit(3), kPcd = bit(4), kA = bit(5), kD = bit(6);
constexpr u64 kPs = bit(7), kG = bit(8), kPat = bit(7), kPatLarge = bit(12), kNx = bit(63);
constexpr u64 kAll = kP | kW | kU;

// xorshift64
class Random {
 public:
  explicit Random(u64 seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  u64 next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  u32 below(u32 n) { return static_cast<u32>(high32(next())) % n; }
  bool one_in(u32 n) { return below(n) == 0; }

 private:
  u64 state_;
};

}  // namespace paging
