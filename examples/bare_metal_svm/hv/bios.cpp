// SPDX-License-Identifier: BSL-1.0
#include "bios.hpp"

#include <cstddef>
#include <cstdint>

#include "guest_memory.hpp"

extern "C" const char bios15[], bios15_answers[];

namespace hv {
namespace {

// Addresses in the guest's page 0: its interrupt vectors, and the size of low memory in KiB that INT 12h gives.
constexpr std::uint64_t kVector15 = 0x15 * 4, kLowMemory = 0x413;

struct [[gnu::packed]] Entry {
  std::uint64_t base, size;
  std::uint32_t type;
};

// bios15.S knows this layout.
struct [[gnu::packed]] Answers {
  std::uint32_t old_vector, count;
  std::uint16_t below_16m, above_16m;  ///< in KiB from 1 MiB on; in 64 KiB from 16 MiB on
  std::uint16_t below_64m;             ///< in KiB from 1 MiB on
  Entry entries[MemoryMap::kCapacity];
};
static_assert(sizeof(Entry) == 20 && offsetof(Answers, entries) == 14);

std::uint64_t less_of(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? a : b; }

void fill_in(Answers& a, const GuestMemory& memory) noexcept {
  constexpr std::uint64_t k16M = 16 * kMiB;
  const std::uint64_t end = memory.main_end();
  a.below_16m = static_cast<std::uint16_t>((less_of(end, k16M) - kMiB) >> 10);
  a.above_16m = static_cast<std::uint16_t>(end > k16M ? (end - k16M) >> 16 : 0);
  a.below_64m = static_cast<std::uint16_t>((less_of(end, 64 * kMiB) - kMiB) >> 10);
  for (const Region& r : memory.map()) a.entries[a.count++] = {r.base, r.size, r.type};
}

}  // namespace

void hook_bios(GuestMemory& memory) noexcept {
  static Answers answers;
  constexpr std::uint64_t kPage = GuestMemory::kBiosPage;
  const auto code = static_cast<std::uint64_t>(bios15_answers - bios15);
  const auto vector = static_cast<std::uint32_t>(kPage << (12 - 4) << 16);  // segment:0
  const auto low = static_cast<std::uint16_t>(kPage << 12 >> 10);
  if (!memory.read(kVector15, &answers.old_vector, 4) || answers.old_vector == 0) return;
  fill_in(answers, memory);
  if (memory.write(kPage << 12, bios15, code) && memory.write((kPage << 12) + code, &answers, sizeof answers) &&
      memory.write(kLowMemory, &low, sizeof low))
    static_cast<void>(memory.write(kVector15, &vector, sizeof vector));
}

}  // namespace hv
