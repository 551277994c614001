// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// The privileged instructions that C++ has no words for.
namespace hv {

inline void out8(std::uint16_t port, std::uint8_t v) noexcept { asm volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
inline void out16(std::uint16_t port, std::uint16_t v) noexcept { asm volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
inline void out32(std::uint16_t port, std::uint32_t v) noexcept { asm volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
inline std::uint8_t in8(std::uint16_t port) noexcept {
  std::uint8_t v;
  asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
inline std::uint16_t in16(std::uint16_t port) noexcept {
  std::uint16_t v;
  asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
inline std::uint32_t in32(std::uint16_t port) noexcept {
  std::uint32_t v;
  asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}

inline std::uint64_t rdmsr(std::uint32_t msr) noexcept {
  std::uint32_t lo, hi;
  asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
  return (std::uint64_t{hi} << 32) | lo;
}
inline void wrmsr(std::uint32_t msr, std::uint64_t v) noexcept {
  asm volatile("wrmsr" : : "c"(msr), "a"(static_cast<std::uint32_t>(v)), "d"(static_cast<std::uint32_t>(v >> 32)));
}

struct CpuidResult {
  std::uint32_t eax, ebx, ecx, edx;
};
inline CpuidResult cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) noexcept {
  CpuidResult r;
  asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
  return r;
}

inline std::uint64_t read_tsc() noexcept {
  std::uint32_t lo, hi;
  asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
  return (std::uint64_t{hi} << 32) | lo;
}

}  // namespace hv
