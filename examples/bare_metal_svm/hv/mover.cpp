// SPDX-License-Identifier: BSL-1.0
#include "mover.hpp"

#include "cpu.hpp"
#include "report.hpp"

namespace hv {
namespace {

using shadowmmu::Gfn;

constexpr std::uint64_t kPoison = 0xCCCCCCCCCCCCCCCC;  // as code: breakpoints
constexpr std::uint64_t kWords = 4096 / 8;

std::uint64_t* words(std::uint64_t frame) noexcept { return reinterpret_cast<std::uint64_t*>(frame << 12); }

void poison(std::uint64_t frame) noexcept {
  std::uint64_t* d = words(frame);
  std::uint64_t n = kWords;
  asm volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(kPoison) : "memory");
}

bool poisoned(std::uint64_t frame) noexcept {
  for (std::uint64_t i = 0; i < kWords; ++i)
    if (words(frame)[i] != kPoison) return false;
  return true;
}

}  // namespace

Mover::Mover(Cpu& cpu, Random& random, std::uint64_t spare) noexcept : cpu_(cpu), random_(random), block_(spare >> 12) {
  for (unsigned i = 0; i < kBlock; ++i) {
    single_[singles_++] = block_ + kBlock + i;
    poison(block_ + i);
    poison(block_ + kBlock + i);
  }
}

bool Mover::in_torn_block(std::uint64_t gfn) const noexcept {
  for (unsigned i = 0; i < holes_; ++i)
    if (hole_[i].gfn / kBlock == gfn / kBlock) return true;
  return false;
}

bool Mover::is_hole(std::uint64_t gfn) const noexcept {
  for (unsigned i = 0; i < holes_; ++i)
    if (hole_[i].gfn == gfn) return true;
  return false;
}

void Mover::copy(std::uint64_t to, std::uint64_t from) noexcept {
  if (!poisoned(to)) fail(cpu_, "torture: somebody wrote to a frame that is no longer the guest's: ", to);
  std::uint64_t *d = words(to), *s = words(from), n = kWords;
  asm volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
  poison(from);
  ++moved_;
}

// Effects: gfn gets a random spare frame; the old one takes its place, unless it is to be kept.
void Mover::exchange(std::uint64_t gfn, std::uint64_t old_frame, bool keep_old) noexcept {
  const std::uint64_t i = random_.below(singles_);
  const std::uint64_t fresh = single_[i];
  copy(fresh, old_frame);
  cpu_.vm.memory.put(gfn, fresh);
  single_[i] = keep_old ? single_[--singles_] : old_frame;
}

// Effects: one page moves. Requires: an invalidation of it is in progress.
void Mover::tear(std::uint64_t gfn) noexcept {
  const GuestMemory& memory = cpu_.vm.memory;
  // Frame 0 holds the BIOS data area and stays.
  if (gfn == 0 || memory.ram(gfn) == nullptr) return;
  const std::uint64_t old_frame = memory.place(gfn).frame;
  const bool from_block = memory.whole(gfn) || (in_torn_block(gfn) && !is_hole(gfn));
  if (from_block && holes_ == kHoles) return;
  exchange(gfn, old_frame, from_block);
  if (from_block) hole_[holes_++] = {gfn, old_frame};
}

// Effects: a torn page goes home. Requires: an invalidation of it is in progress.
void Mover::mend(unsigned hole) noexcept {
  const Hole h = hole_[hole];
  const std::uint64_t old_frame = cpu_.vm.memory.place(h.gfn).frame;
  copy(h.home, old_frame);
  single_[singles_++] = old_frame;
  hole_[hole] = hole_[--holes_];
  if (in_torn_block(h.gfn))
    cpu_.vm.memory.put(h.gfn, h.home);
  else
    cpu_.vm.memory.put_block(h.gfn & ~std::uint64_t{kBlock - 1}, h.home & ~std::uint64_t{kBlock - 1});
}

void Mover::move_pages() noexcept {
  const GuestMemory::Motion motion(cpu_.vm.memory);
  const std::uint64_t count = 1 + random_.below(kMovedAtOnce), frames = cpu_.vm.memory.frames();
  const std::uint64_t first = random_.below(frames - count);
  // Invalidations nest, and may cover what does not change.
  const bool nested = random_.one_in(4);
  if (nested) cpu_.mmu.invalidate_begin(Gfn{random_.below(frames)}, 1 + random_.below(2 * kBlock));
  if (holes_ != 0 && random_.one_in(2)) {
    for (std::uint64_t i = 0; i < count && holes_ != 0; ++i) {
      const auto hole = static_cast<unsigned>(random_.below(holes_));
      cpu_.mmu.invalidate_begin(Gfn{hole_[hole].gfn}, 1);
      mend(hole);
      cpu_.mmu.invalidate_end();
    }
  } else {
    cpu_.mmu.invalidate_begin(Gfn{first}, count);
    for (std::uint64_t i = 0; i < count; ++i) tear(first + i);
    cpu_.mmu.invalidate_end();
  }
  if (nested) cpu_.mmu.invalidate_end();
}

void Mover::move_block() noexcept {
  constexpr unsigned kTries = 64;
  GuestMemory& memory = cpu_.vm.memory;
  std::uint64_t gfn = 0;
  for (unsigned i = 0; i < kTries && !memory.whole(gfn); ++i) gfn = random_.below(memory.frames() / kBlock) * kBlock;
  if (!memory.whole(gfn)) return;
  const std::uint64_t old_block = memory.place(gfn).frame;
  const GuestMemory::Motion motion(memory);
  cpu_.mmu.invalidate_begin(Gfn{gfn}, kBlock);
  for (unsigned i = 0; i < kBlock; ++i) copy(block_ + i, old_block + i);
  memory.put_block(gfn, block_);
  cpu_.mmu.invalidate_end();
  block_ = old_block;
}

}  // namespace hv
