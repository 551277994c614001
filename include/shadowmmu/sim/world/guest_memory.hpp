// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/sim/ept_walker.hpp"
#include "shadowmmu/sim/random.hpp"
#include "shadowmmu/sim/tlb.hpp"
#include "shadowmmu/sim/world/agents.hpp"

/// Guest memory: which gfns there are, where the host keeps each, in pages of which size and memory type, and what it
/// does to them of itself: moves them, shares them, makes them read-only.
namespace shadowmmu::sim::world {

struct MachineConfig {
  std::uint64_t seed = 1;
  unsigned vcpus = 2;
  bool second_level = false;        ///< EPT: the guest's addresses are guest physical
  unsigned host_address_bits = 46;  ///< MAXPHYADDR of the CPUs
  EptFeatures ept{};
  CacheConfig caches{};
  bool whole_blocks = false;  ///< low guest memory lies in host pages of 2 MiB
  bool shifted = false;       ///< with whole_blocks: no gfn lies where a large mapping would want it
  unsigned big_level = 1;     ///< size of the host pages under the big slot: 1 to 3
  bool below_4g = false;      ///< where guest memory lies
  bool memory_types = false;  ///< some of guest memory is not write-back
  bool devices = false;       ///< with memory_types: the high slot is a device's memory
  bool large_1g = true;       ///< the CPUs map pages of 1 GiB
};

/// Where guest memory is, in gfns. Low memory holds the guest's tables; the big slot can be one host page of 1 GiB; the
/// high slot lies above 4 GiB.
struct GuestMap {
  static constexpr std::uint64_t kLow = 2048, kLowPages = 2000;  ///< slots own so many of them
  static constexpr std::uint64_t kBig = 0x40000, kBigPages = 0x40000;
  static constexpr std::uint64_t kHigh = 0x100000, kHighPages = 64;
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  /// Tables of the guest's that lie apart from the others.
  static constexpr std::uint64_t kZeroTable = 0, kBigTables = kBig + 7;  // behind what the slot may lose
};

class GuestMemory : public host::Arena {
 public:
  explicit GuestMemory(const MachineConfig& c)
      : Arena(kHighAt + GuestMap::kHighPages, 4096),
        config_(c),
        base_(c.below_4g ? std::uint64_t{1} << 30 : kGuestBase),
        owner_(2 * GuestMap::kLow, GuestMap::kNone),
        whole_(GuestMap::kLow / 512, c.whole_blocks),
        read_only_(GuestMap::kLow),
        copy_on_write_(GuestMap::kLow),
        owned_(GuestMap::kLow),
        flagged_(GuestMap::kLow) {
    shuffle();
  }

  void* to_virt(Hpa p) noexcept {
    const std::uint64_t at = p.value() - base_;
    if (at >> kPageShift < Arena::guest_pages())
      return static_cast<char*>(Arena::guest_page(Gfn{at >> kPageShift})) + (at & kPageMask);
    if (p.value() >= std::uint64_t{1} << 30) return nullptr;
    return foreign_tables ? foreign_tables(p) : Arena::to_virt(p);
  }
  /// Where tables lie that did not come from alloc_frame: an MMU with table memory of its own.
  std::function<void*(Hpa)> foreign_tables;
  void* guest_page(Gfn g) noexcept {
    const std::uint64_t at = place(g.value());
    return at == GuestMap::kNone ? nullptr : Arena::guest_page(Gfn{at});
  }
  Backing backing(Gfn g, bool write) noexcept {
    Backing b;
    const std::uint64_t at = place(g.value()), gfn = g.value();
    if (at == GuestMap::kNone || !memory(gfn)) return b;
    b.kind = Backing::Kind::Memory;
    b.pfn = Pfn{(base_ >> kPageShift) + at};
    b.type = type_of(gfn);
    if (gfn < GuestMap::kLow) {
      b.level = Level{whole_[gfn / 512] ? 2U : 1U};
      if (read_only_[gfn]) b.kind = Backing::Kind::ReadOnly;
      if (copy_on_write_[gfn] && write) copy_on_write_[gfn] = false;
      b.writable = !copy_on_write_[gfn];
      if (!b.writable) b.level = Level{1};
    } else if (gfn < GuestMap::kHigh) {
      b.level = Level{config_.big_level};
      if (device(gfn)) b.kind = Backing::Kind::Device;
    } else if (device(gfn)) {
      b.kind = Backing::Kind::Device;
    }
    return b;
  }
  /// Effects: the frame lies elsewhere, contents and all. Requires: low memory, and an unmap of g is in progress.
  void move(Gfn g, std::uint64_t choice) {
    exchange_places(g.value(), GuestMap::kLow + choice % GuestMap::kLow);
    whole_[g.value() / 512] = false;
  }
  /// Returns: whether the 2 MiB of low memory in which g lies can be one host page again. Effects: then they are,
  /// contents and all. Requires: an unmap of all of it is in progress.
  bool make_whole(Gfn g) {
    const std::uint64_t first = g.value() & ~std::uint64_t{511};
    if (config_.shifted || !config_.whole_blocks || whole_[first / 512]) return false;
    for (std::uint64_t i = first; i < first + 512; ++i)
      if (read_only_[i] || copy_on_write_[i]) return false;
    for (std::uint64_t to = 0; to < owner_.size(); to += 512) {
      const auto fits = [&](std::uint64_t i) {
        return owner_[to + i] == GuestMap::kNone || owner_[to + i] == first + i;
      };
      std::uint64_t n = 0;
      while (n < 512 && fits(n)) ++n;
      if (n < 512) continue;
      for (std::uint64_t i = 0; i < 512; ++i)
        if (place_[first + i] != to + i)
          exchange_places(first + i,
                          static_cast<std::uint64_t>(std::find(place_.begin(), place_.end(), to + i) - place_.begin()));
      whole_[first / 512] = true;
      return true;
    }
    return false;
  }
  void set_read_only(Gfn g, bool on) {
    read_only_[g.value()] = on;
    whole_[g.value() / 512] = false;
  }
  /// Effects: the host shares the frames: who wants to write one must ask for it with `write`, and has it for himself
  /// from then on. Until share_ends the MMU may not have heard of it.
  void share_begins(Gfn first, std::uint64_t pages) {
    sharing_first_ = first.value();
    sharing_pages_ = pages;
    for (std::uint64_t g = first.value(); g < first.value() + pages; ++g) {
      copy_on_write_[g] = true;
      whole_[g / 512] = false;
    }
  }
  void share_ends() { sharing_pages_ = 0; }
  /// Returns: whether its slot takes no writes: nobody but the MMU knows that.
  [[nodiscard]] bool flagged(std::uint64_t gfn) const { return gfn < GuestMap::kLow && flagged_[gfn]; }
  [[nodiscard]] bool read_only(std::uint64_t gfn) const {
    return gfn < GuestMap::kLow && (read_only_[gfn] || flagged_[gfn]);
  }
  /// Effects: the slot of these frames of low memory takes no writes, or does again.
  void flag(std::uint64_t first, std::uint64_t pages, bool on) {
    for (std::uint64_t g = first; g < first + pages && g < GuestMap::kLow; ++g) flagged_[g] = on;
  }
  /// Returns: whether the frame lies in a host page of 2 MiB.
  [[nodiscard]] bool whole(std::uint64_t gfn) const { return gfn < GuestMap::kLow && whole_[gfn / 512]; }
  [[nodiscard]] bool copy_on_write(std::uint64_t gfn) const {
    return gfn < GuestMap::kLow && copy_on_write_[gfn] && gfn - sharing_first_ >= sharing_pages_;
  }
  /// Returns: the guest frame that lies at this host address, or GuestMap::kNone.
  [[nodiscard]] std::uint64_t gfn_at(Hpa a) const noexcept {
    const std::uint64_t at = (a.value() - base_) >> kPageShift;
    if (at < owner_.size()) return owner_[at];
    if (at - kBigAt < GuestMap::kBigPages) return GuestMap::kBig + (at - kBigAt);
    if (at - kHighAt < GuestMap::kHighPages) return GuestMap::kHigh + (at - kHighAt);
    return GuestMap::kNone;
  }
  /// Returns: whether the frame is a device's memory, whatever the guest makes of it.
  [[nodiscard]] bool device(std::uint64_t gfn) const noexcept {
    if (!config_.devices || !config_.memory_types) return false;
    return gfn >= GuestMap::kHigh || (config_.second_level && gfn - (GuestMap::kBig + 512) < 512);
  }
  [[nodiscard]] MemoryType type_of(std::uint64_t gfn) const noexcept {
    if (!config_.memory_types) return MemoryType::WriteBack;
    if (device(gfn)) return MemoryType::Uncached;
    constexpr MemoryType kTypes[] = {MemoryType::WriteBack,    MemoryType::WriteBack,      MemoryType::Uncached,
                                     MemoryType::WriteThrough, MemoryType::WriteCombining, MemoryType::WriteProtected};
    return kTypes[(gfn / 512 + config_.seed) % 6];
  }
  /// Effects: a slot owns [first, first + pages), or none does: then nothing is to be found there. Requires: the
  /// range lies in one slot; of the big and the high one it is all there is.
  void show(std::uint64_t first, std::uint64_t pages, bool on) {
    if (first >= GuestMap::kHigh)
      high_ = {first, on ? pages : 0};
    else if (first >= GuestMap::kBig)
      big_ = {first, on ? pages : 0};
    for (std::uint64_t g = first; g < first + pages && g < GuestMap::kLow; ++g) owned_[g] = on;
  }
  /// Returns: whether a slot owns the gfn.
  [[nodiscard]] bool memory(std::uint64_t gfn) const noexcept {
    if (gfn < GuestMap::kLow) return owned_[gfn];
    return gfn - big_.first < big_.pages || gfn - high_.first < high_.pages;
  }

  // Guest memory as the oracle reads it and devices write it.
  [[nodiscard]] bool read(Gpa at, unsigned bytes, std::uint64_t& value) noexcept {
    const char* page = static_cast<const char*>(guest_page(frame_of(at)));
    if (page == nullptr || !memory(frame_of(at).value())) return false;
    value = 0;
    std::memcpy(&value, page + (at.value() & kPageMask), bytes);
    return true;
  }
  [[nodiscard]] bool write(Gpa at, unsigned bytes, std::uint64_t value) noexcept {
    char* page = static_cast<char*>(guest_page(frame_of(at)));
    if (page == nullptr) return false;
    std::memcpy(page + (at.value() & kPageMask), &value, bytes);
    return true;
  }

 private:
  /// Effects: gfn g lies where nobody's frame `other` was, and the other way round.
  void exchange_places(std::uint64_t g, std::uint64_t other) {
    std::memcpy(Arena::guest_page(Gfn{place_[other]}), guest_page(Gfn{g}), kPageSize);
    std::memset(guest_page(Gfn{g}), 0x5a, kPageSize);
    owner_[place_[g]] = GuestMap::kNone;
    std::swap(place_[g], place_[other]);
    owner_[place_[g]] = g;
  }
  static constexpr std::uint64_t kBigAt = 262144, kHighAt = kBigAt + GuestMap::kBigPages;

  void shuffle() {
    Random rng(config_.seed);
    std::vector<std::uint64_t> blocks(2 * GuestMap::kLow / 512);
    for (std::uint64_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    rng.shuffle(blocks);
    for (std::uint64_t i = 0; i < 2 * GuestMap::kLow; ++i) place_.push_back(blocks[i / 512] * 512 + i % 512);
    if (!config_.whole_blocks) rng.shuffle(place_);
    if (config_.shifted)
      for (std::uint64_t i = 0; i < place_.size(); ++i) place_[i] = (i + 1) % place_.size();
    for (std::uint64_t g = 0; g < GuestMap::kLow; ++g) owner_[place_[g]] = g;
  }
  [[nodiscard]] std::uint64_t place(std::uint64_t gfn) const noexcept {
    if (gfn < GuestMap::kLow) return place_[gfn];
    if (gfn - GuestMap::kBig < GuestMap::kBigPages) return kBigAt + (gfn - GuestMap::kBig);
    if (gfn - GuestMap::kHigh < GuestMap::kHighPages) return kHighAt + (gfn - GuestMap::kHigh);
    return GuestMap::kNone;
  }

  MachineConfig config_;
  std::uint64_t base_;  ///< Hpa of guest memory
  std::vector<std::uint64_t> place_, owner_;
  std::vector<bool> whole_;  ///< the 2 MiB of guest frames are one host page
  std::vector<bool> read_only_, copy_on_write_, owned_, flagged_;
  std::uint64_t sharing_first_ = 0, sharing_pages_ = 0;
  struct Shown {
    std::uint64_t first = 0, pages = 0;
  };
  Shown big_, high_;
};

}  // namespace shadowmmu::sim::world
