// SPDX-License-Identifier: BSL-1.0
#pragma once
#include "micro/world.hpp"

namespace shadowmmu::bench {

/// A direct second-level map of 2 MiB regions, every page of which is touched, beside a small World for the floor.
template <class Lock = lock::Spin>
class DirectWorld {
 public:
  using Mmu = MmuOf<config::Default, Lock, HugeArena, arch::Ept>;
  DirectWorld(std::uint64_t regions, Level backing)
      : pages_(regions * 512), arena_(pages_, 2 * regions + 4096), mmu_(arena_) {
    arena_.set_backing_level(backing);
    slot_ = mmu_.add_slot(Gfn{0}, pages_).value();
    mmu_.set_limit(static_cast<std::uint32_t>(2 * regions + 1024));
    vcpu_ = std::make_unique<typename Mmu::Vcpu>(mmu_);
    for (std::uint64_t g = 0; g < pages_; ++g) order_.push_back(g);
    sim::Random(4).shuffle(order_);
  }
  /// Effects: a write to the first page of each region.
  void touch_regions() {
    static_cast<void>(vcpu_->enter());
    for (std::uint64_t g = 0; g < pages_; g += 512) write(g);
  }
  /// `present`: pferr::kPresent where the hardware found an entry that refuses the write.
  void write(std::uint64_t gfn, std::uint32_t present = 0) {
    const FaultOutcome o = vcpu_->handle_fault(Gva{gfn << kPageShift}, pferr::kWrite | present, CpuMode{});
    if (o.kind != FaultOutcome::Kind::Resume) std::abort();
  }
  /// Effects: every page written, in random order.
  void fill() {
    touch_regions();
    for (const std::uint64_t g : order_) write(g);
  }
  [[nodiscard]] Mmu& mmu() noexcept { return mmu_; }
  [[nodiscard]] typename Mmu::Vcpu& vcpu() noexcept { return *vcpu_; }
  [[nodiscard]] HugeArena& arena() noexcept { return arena_; }
  [[nodiscard]] SlotId slot() const noexcept { return slot_; }
  [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
  [[nodiscard]] const std::vector<std::uint64_t>& order() const noexcept { return order_; }

 private:
  std::uint64_t pages_;
  HugeArena arena_;
  Mmu mmu_;
  SlotId slot_{};
  std::unique_ptr<typename Mmu::Vcpu> vcpu_;
  std::vector<std::uint64_t> order_;
};

}  // namespace shadowmmu::bench
