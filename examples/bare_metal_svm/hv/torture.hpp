// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "log_check.hpp"
#include "mover.hpp"
#include "random.hpp"
#include "shadowmmu/result.hpp"

namespace hv {

struct Cpu;

/// Does to the running guest, many times a second, whatever a host may do to a VM: memslots go and come back,
/// everything is zapped, writes are logged, pages move. The guest must not notice; what the library promises is
/// checked.
///
/// All of it happens between an exit and the next entry. Time is the TSC's; so that a guest that computes cannot keep
/// us out, its interrupts exit once, and are delivered at the entry that follows.
class Torture {
 public:
  struct Options {
    std::uint64_t rate = 0;   ///< actions a second
    std::uint64_t seed = 0;   ///< 0: from the clock
    std::uint64_t spare = 0;  ///< address of Mover::kSpareBytes
  };

  /// Effects: adds the guest's memslots up to guest frame `end`: several, that RAM, ROM and the devices can go one by
  /// one; interrupt controllers and HPET in none.
  Torture(Cpu& cpu, const Options& options, std::uint64_t end) noexcept;

  /// Effects: acts if it is time. Call it after every exit.
  void after_exit() noexcept;
  /// Effects: answers an access to what is no slot's memory, or a write to ROM. Returns: whether it was one of ours.
  [[nodiscard]] bool handle_mmio(const shadowmmu::FaultOutcome& o) noexcept;
  /// Effects: prints what was done; an error line for what never was.
  void report() noexcept;

  enum Kind : unsigned {
    kRemove,
    kMove,
    kResize,
    kReadOnly,
    kZapAll,
    kObsolete,
    kReclaim,
    kZapSlot,
    kLogWrites,
    kLogDirtyBits,
    kFetch,
    kReadClear,
    kLogStop,
    kMovePages,
    kMoveBlock,
    kMmio,
    kYoung,
    kShrink,
    kLimit,
    kSplit,
    kKinds
  };

 private:
  struct Slot {
    shadowmmu::SlotId id{};
    std::uint64_t first = 0, pages = 0;
    bool rom = false, read_only = false, loggable = false;
    unsigned migrates = ~0U;  ///< Migration's number for it: its log is not ours then
    LogCheck log{};
  };
  static constexpr unsigned kMaxSlots = 32, kKeptOut = 3, kHistory = 16;

  void add_slots(std::uint64_t end) noexcept;
  void add(std::uint64_t first, std::uint64_t end, bool loggable = false) noexcept;
  void add_back(Slot& s) noexcept;
  void add_main_memory(std::uint64_t first, std::uint64_t end) noexcept;
  [[nodiscard]] bool held_by_log(const Slot& s, const shadowmmu::Status& moved) noexcept;
  [[nodiscard]] Slot& any_slot() noexcept { return slots_[random_.below(slot_count_)]; }
  [[nodiscard]] Slot& victim() noexcept;
  [[nodiscard]] Slot* find_log(bool on) noexcept;

  [[nodiscard]] Kind choose() noexcept;
  void act(Kind kind) noexcept;
  void check_up() noexcept;
  void demand(const shadowmmu::Status& s) noexcept;
  void demand_refusal(const shadowmmu::Status& s, shadowmmu::Error e) noexcept;

  void remove() noexcept;
  void move() noexcept;
  void resize() noexcept;
  void read_only() noexcept;
  void set_read_only(Slot& s, bool on) noexcept;
  void log(shadowmmu::DirtyMethod method) noexcept;
  void mmio() noexcept;
  void young() noexcept;
  void limit() noexcept;
  void split() noexcept;
  void quick() noexcept;
  void poke() noexcept;

  Cpu& cpu_;
  Random random_;
  Mover mover_;
  Slot slots_[kMaxSlots] = {};
  unsigned slot_count_ = 0, main_slots_ = 0;
  std::uint64_t kept_out_[kKeptOut] = {};  ///< guest frames of devices that are in no slot
  unsigned kept_out_count_ = 0;
  bool rom_was_written_ = false;

  std::uint64_t seed_ = 0, rate_ = 0, ticks_a_second_ = 0, period_ = 0;
  std::uint64_t began_ = 0, due_ = 0, last_ = 0, next_progress_ = 0;
  std::uint32_t limit_ = 0;
  unsigned lowered_for_ = 0;  ///< actions until the limit is what it was

  std::uint64_t actions_ = 0, count_[kKinds] = {};
  Kind now_ = kKinds, history_[kHistory] = {};
  LogCheck::Counts logs_{};
  std::uint64_t mmio_moves_ = 0, mmio_adopted_ = 0, mmio_invalidations_ = 0, young_checks_ = 0, audits_ = 0,
                reclaimed_ = 0, interrupts_ = 0, in_step_ = 0, pokes_ = 0;
};

/// Effects: makes the one Torture, for as long as the machine runs.
[[nodiscard]] Torture* start_torture(Cpu& cpu, const Torture::Options& options, std::uint64_t end) noexcept;

}  // namespace hv
